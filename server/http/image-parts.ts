// The pictures of a request: fetched and decoded side by side, each error with the place it belongs to.

import type { DecodedImage, ModelInfo } from '../engine/port.ts';
import { errors } from '../errors.ts';
import { ImageError } from '../images/decoder.ts';
import type { AppContext } from './context.ts';

export interface ImageReference {
  url: string;
  detail: DecodedImage['detail'];
  /** Where it stood in the request, such as messages[2].content[1]. */
  param: string;
}

export async function loadImages(
  context: AppContext,
  model: ModelInfo,
  references: readonly ImageReference[],
): Promise<DecodedImage[]> {
  const first = references[0];
  if (!first) return [];
  if (!model.vision) throw errors.invalidImage(`The model '${model.name}' does not take images.`, first.param);
  const { maxImages } = context.settings;
  if (references.length > maxImages) {
    throw errors.invalidImage(`A request may hold at most ${maxImages} images.`, references[maxImages]!.param);
  }
  return Promise.all(references.map((reference) => loadOne(context, reference)));
}

async function loadOne(context: AppContext, { url, detail, param }: ImageReference): Promise<DecodedImage> {
  try {
    return await context.images.load(url, detail);
  } catch (error) {
    if (!(error instanceof ImageError)) throw error;
    throw errors.invalidImage(`Invalid '${param}': ${error.message}.`, param);
  }
}
