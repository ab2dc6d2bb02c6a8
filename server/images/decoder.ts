// From what a client sends (a data: URL, or an http URL where that is allowed) to pixels, within limits.

import { Worker } from 'node:worker_threads';
import type { DecodedImage } from '../engine/port.ts';
import { fetchImage } from './fetch.ts';
import { sniff } from './sniff.ts';

/** Something is wrong with a picture; the message is for the client and says nothing of this machine. */
export class ImageError extends Error {}

export interface ImageLimits {
  /** Encoded bytes of one picture. */
  bytesMax: number;
  /** Pixels of one picture, looked at before it is decoded. */
  pixelsMax: number;
  /** Hosts that pictures may be fetched from; `*` is any public one, none switches it off. */
  urlHosts: readonly string[];
}

interface Job {
  resolve: (image: { width: number; height: number; pixels: Uint8Array }) => void;
  reject: (error: ImageError) => void;
}

type Answer = { id: number } & ({ error: string } | { width: number; height: number; pixels: Uint8Array });

/** Decodes at a time: bounds the memory that pictures take while they are neither bytes nor tokens. */
const decodesMax = 2;
const sideMin = 1;

export class ImageDecoder {
  readonly #limits: ImageLimits;
  #worker: Worker | null = null;
  readonly #jobs = new Map<number, Job>();
  #running = 0;
  readonly #waiting: Array<() => void> = [];
  #nextId = 1;

  constructor(limits: ImageLimits) {
    this.#limits = limits;
  }

  /** Throws ImageError. */
  async load(url: string, detail: DecodedImage['detail']): Promise<DecodedImage> {
    const bytes = /^data:/i.test(url) ? this.#fromDataUrl(url) : await this.#fromWeb(url);
    if (bytes.length === 0) throw new ImageError('the image is empty');
    if (!sniff(bytes)) throw new ImageError('the image is not JPEG, PNG, WebP, GIF, AVIF or TIFF');
    return { ...(await this.#decode(bytes)), detail };
  }

  async close(): Promise<void> {
    await this.#worker?.terminate();
  }

  #fromDataUrl(url: string): Uint8Array {
    const comma = url.indexOf(',');
    const head = url.slice(5, Math.min(comma < 0 ? 200 : comma, 200));
    if (comma < 0 || !/;base64$/i.test(head)) throw new ImageError('a data: URL must hold base64');
    const text = url.slice(comma + 1);
    if (text.length > Math.ceil(this.#limits.bytesMax / 3) * 4 + 4) throw this.#tooLarge();
    if (!/^[A-Za-z0-9+/_-]*={0,2}$/.test(text)) throw new ImageError('the base64 of the image is damaged');
    const bytes = Buffer.from(text, 'base64');
    if (bytes.length > this.#limits.bytesMax) throw this.#tooLarge();
    return bytes;
  }

  async #fromWeb(url: string): Promise<Uint8Array> {
    const { urlHosts, bytesMax } = this.#limits;
    if (urlHosts.length === 0) {
      throw new ImageError(
        'image URLs are not fetched here; send the image as a data: URL (operators: --allow-image-urls)',
      );
    }
    return fetchImage(url, { hosts: urlHosts, bytesMax }).catch((error: Error) => {
      throw new ImageError(error.message);
    });
  }

  #tooLarge(): ImageError {
    return new ImageError(`the image is larger than ${this.#limits.bytesMax} bytes`);
  }

  async #decode(bytes: Uint8Array) {
    if (this.#running >= decodesMax) await new Promise<void>((resolve) => this.#waiting.push(resolve));
    this.#running++;
    try {
      const image = await this.#ask(bytes);
      if (image.width < sideMin || image.height < sideMin) throw new ImageError('the image has no pixels');
      return image;
    } finally {
      this.#running--;
      this.#waiting.shift()?.();
    }
  }

  #ask(bytes: Uint8Array): Promise<{ width: number; height: number; pixels: Uint8Array }> {
    const worker = this.#worker ?? this.#start();
    const id = this.#nextId++;
    return new Promise((resolve, reject) => {
      this.#jobs.set(id, { resolve, reject });
      worker.postMessage({ id, bytes, pixelsMax: this.#limits.pixelsMax });
    });
  }

  #start(): Worker {
    const worker = new Worker(new URL('./worker.mjs', import.meta.url), { execArgv: [] });
    worker.unref();
    worker.on('message', (answer: Answer) => this.#answered(answer));
    worker.on('error', () => this.#lost(worker));
    worker.on('exit', () => this.#lost(worker));
    this.#worker = worker;
    return worker;
  }

  #answered(answer: Answer): void {
    const job = this.#jobs.get(answer.id);
    this.#jobs.delete(answer.id);
    if (!job) return;
    if (!('error' in answer)) job.resolve({ width: answer.width, height: answer.height, pixels: answer.pixels });
    else job.reject(new ImageError(this.#inWords(answer.error)));
  }

  /** libvips' words hold file and function names; clients get ours. */
  #inWords(message: string): string {
    if (/pixel limit/i.test(message)) return `the image has more than ${this.#limits.pixelsMax} pixels`;
    return 'the image is damaged or cannot be decoded';
  }

  #lost(worker: Worker): void {
    if (worker !== this.#worker) return;
    this.#worker = null;
    for (const job of this.#jobs.values()) job.reject(new ImageError('the image could not be decoded'));
    this.#jobs.clear();
  }
}
