// Pictures from drop, paste, camera or the file picker, made ready to send.
import type { Picture } from './tree';

/** Longest side worth sending: beyond it every model scales down, and conversations grow for nothing. */
const longestSide = 2048;
const sendAsIs = /^image\/(jpeg|png|webp|gif)$/;
const bytesAsIs = 3_000_000;

export const isPicture = (file: File): boolean =>
  file.type.startsWith('image/') || /\.(avif|heic|tiff?|bmp)$/i.test(file.name);

const asDataUrl = (blob: Blob): Promise<string> =>
  new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result as string);
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(blob);
  });

/** Throws an Error a person can read when the browser cannot decode the file and it is too large to send unread. */
export async function readPicture(file: File): Promise<Picture> {
  const bitmap = await createImageBitmap(file).catch(() => null);
  if (!bitmap) {
    // TIFF and others that this browser cannot show but the server can decode.
    if (file.size <= bytesAsIs * 4) return { name: file.name, url: await asDataUrl(file) };
    throw new Error(`${file.name} cannot be read as a picture.`);
  }
  const scale = Math.min(1, longestSide / Math.max(bitmap.width, bitmap.height));
  if (scale === 1 && sendAsIs.test(file.type) && file.size <= bytesAsIs) {
    bitmap.close();
    return { name: file.name || 'picture', url: await asDataUrl(file) };
  }
  const canvas = new OffscreenCanvas(Math.round(bitmap.width * scale), Math.round(bitmap.height * scale));
  const context = canvas.getContext('2d');
  if (!context) throw new Error('This browser cannot scale pictures.');
  const type = file.type === 'image/png' ? 'image/png' : 'image/jpeg';
  if (type === 'image/jpeg') {
    // It knows no transparency: what was would turn black. The server puts white under the rest, too.
    context.fillStyle = '#fff';
    context.fillRect(0, 0, canvas.width, canvas.height);
  }
  context.imageSmoothingQuality = 'high';
  context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  bitmap.close();
  return { name: file.name || 'picture', url: await asDataUrl(await canvas.convertToBlob({ type, quality: 0.92 })) };
}
