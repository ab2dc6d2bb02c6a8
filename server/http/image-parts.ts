// The pictures of a request: fetched and decoded side by side, each error with the place it belongs to.

import type { DecodedImage, ModelInfo } from '../engine/port.ts';
import { errors } from '../errors.ts';
import { ImageError } from '../images/decoder.ts';
import type { AppContext } from './context.ts';
import type { LongStrings } from './long-strings.ts';
import type { RequestScope } from './scope.ts';

export interface ImageReference {
  url: string;
  detail: DecodedImage['detail'];
  /** Where it stood in the request, such as messages[2].content[1]. */
  param: string;
}

/** Where a request's pictures are: the references, and the body's long strings where they were taken out. */
export interface RequestImages {
  references: readonly ImageReference[];
  strings?: LongStrings | null;
}

/** Decodes the pictures and gives them to `use`, which has the engine take them before it returns. */
export async function withImages<T>(
  context: AppContext,
  model: ModelInfo,
  images: RequestImages,
  scope: RequestScope,
  use: (images: DecodedImage[]) => Promise<T>,
): Promise<T> {
  const { references, strings } = images;
  const first = references[0];
  if (!first) return use([]);
  if (!model.vision) throw errors.invalidImage(`The model '${model.name}' does not take images.`, first.param);
  const { maxImages } = context.settings;
  if (references.length > maxImages) {
    throw errors.invalidImage(`A request may hold at most ${maxImages} images.`, references[maxImages]!.param);
  }
  // Those that wait hold their bodies: as many as may wait for the engine, and no more.
  if (context.images.waiting >= context.settings.queueRequests) throw errors.queueFull(1);
  return context.images.hold(async () => {
    scope.throwIfAborted();
    return use(await loadAll(context, references, scope, strings));
  });
}

/** Once one has failed or the client has gone, no more of them are decoded: others wait for their turn. */
function loadAll(
  context: AppContext,
  references: readonly ImageReference[],
  scope: RequestScope,
  strings?: LongStrings | null,
): Promise<DecodedImage[]> {
  let failure: unknown = null;
  const goOn = () => {
    scope.throwIfAborted();
    if (failure) throw failure;
  };
  const load = async (reference: ImageReference) => {
    try {
      return await loadOne(context, reference, goOn, strings);
    } catch (error) {
      failure ??= error;
      throw error;
    }
  };
  return Promise.all(references.map(load));
}

async function loadOne(
  context: AppContext,
  { url, detail, param }: ImageReference,
  goOn: () => void,
  strings?: LongStrings | null,
) {
  try {
    return await context.images.load(strings ? strings.sourceOf(url) : url, detail, goOn);
  } catch (error) {
    if (!(error instanceof ImageError)) throw error;
    throw errors.invalidImage(`Invalid '${param}': ${error.message}.`, param);
  }
}
