// Content parts that clients know from elsewhere and that are refused here, in words that say what to send instead.

const instead: Record<string, string> = {
  video_url: 'videos are not taken; send frames of the video as image_url parts',
  input_video: 'videos are not taken; send frames of the video as images',
  video: 'videos are not taken; send frames of the video as images',
  input_audio: 'audio is not taken',
  file: 'files are not taken; send text, or images as image_url parts',
  input_file: 'files are not taken; send input_text or input_image parts',
  document: 'documents are not taken; send text or image blocks',
};

const maxLength = 40;

/** The error of a union of parts: what is wrong with a `type` that is none of `known`. */
export function partError(...known: string[]) {
  const accepted = known.map((type) => `'${type}'`).join(', ');
  return {
    error: ({ input }: { input?: unknown }) => {
      const type = (input as { type?: unknown } | null | undefined)?.type;
      if (typeof type !== 'string') return `a part must be an object whose type is one of ${accepted}`;
      const words = Object.hasOwn(instead, type) ? instead[type]! : `must be one of ${accepted}`;
      return known.includes(type) ? undefined : `'${type.slice(0, maxLength)}': ${words}`;
    },
  };
}
