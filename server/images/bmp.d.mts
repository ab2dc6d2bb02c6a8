/** RGB8 of a BMP file; throws an Error whose message is for people, "pixel limit" when it has over `pixelsMax`. */
export function decodeBmp(
  bytes: Uint8Array,
  pixelsMax: number,
): { width: number; height: number; pixels: Uint8Array };
