// From what a client sends (a data: URL, or an http URL where that is allowed) to pixels, within limits.

import { Worker } from 'node:worker_threads';
import type { DecodedImage } from '../engine/port.ts';
import { fetchImage } from './fetch.ts';

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

/** A picture as it came: a URL, or the head of a data: URL with its base64 still as bytes of the request's body. */
export type ImageSource = string | { head: string; base64: Uint8Array };

type Pixels = Pick<DecodedImage, 'width' | 'height' | 'pixels'>;
type Answer = { id: number } & ({ error: string } | Pixels);

interface Job {
  resolve: (image: Pixels) => void;
  reject: (error: ImageError) => void;
}

interface Encoded {
  base64: boolean;
  source: Uint8Array | string;
}

/** Decodes at a time: bounds the memory that pictures take while they are neither bytes nor tokens. */
const decodesMax = 2;
/** Requests whose pictures are pixels in this process at a time: from the decode until the engine has made them rows. */
const requestsMax = 4;
const headLengthMax = 200;
/** Smaller buffers are not worth a message. */
const spareBytesMin = 2 ** 20;

export class ImageDecoder {
  readonly #limits: ImageLimits;
  #worker: Worker | null = null;
  readonly #jobs = new Map<number, Job>();
  readonly #decodes = new Gate(decodesMax);
  readonly #requests = new Gate(requestsMax);
  #nextId = 1;

  constructor(limits: ImageLimits) {
    this.#limits = limits;
  }

  /** Runs `use`, which loads pictures and has the engine take them, when few others hold pictures. */
  hold<T>(use: () => Promise<T>): Promise<T> {
    return this.#requests.pass(use);
  }

  /** How many wait in hold(). */
  get waiting(): number {
    return this.#requests.waiting;
  }

  /** Throws ImageError, or what `goOn` throws: it is asked when it is the picture's turn to be decoded. */
  async load(source: ImageSource, detail: DecodedImage['detail'], goOn: () => void = () => {}): Promise<DecodedImage> {
    const encoded = await this.#open(source);
    const image = await this.#decodes.pass(() => {
      goOn();
      return this.#ask(encoded);
    });
    return { ...image, detail, release: () => this.#takeBack(image.pixels) };
  }

  /** The worker writes other pictures over these pixels; nobody reads them any more. */
  #takeBack({ buffer }: Uint8Array): void {
    if (!this.#worker || !(buffer instanceof ArrayBuffer) || buffer.byteLength < spareBytesMin) return;
    this.#worker.postMessage({ spare: buffer }, [buffer]);
  }

  async close(): Promise<void> {
    await this.#worker?.terminate();
  }

  async #open(source: ImageSource): Promise<Encoded> {
    if (typeof source !== 'string') {
      checkHead(source.head);
      return { base64: true, source: source.base64 };
    }
    if (!/^data:/i.test(source)) return { base64: false, source: await this.#fromWeb(source) };
    const comma = source.indexOf(',');
    if (comma < 0) checkHead('');
    checkHead(source.slice(0, Math.min(comma, headLengthMax)));
    return { base64: true, source: source.slice(comma + 1) };
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

  #ask({ base64, source }: Encoded): Promise<Pixels> {
    const worker = this.#worker ?? this.#start();
    const id = this.#nextId++;
    const { bytesMax, pixelsMax } = this.#limits;
    return new Promise((resolve, reject) => {
      this.#jobs.set(id, { resolve, reject });
      // A copy of its own: a view into a body would take the whole body along.
      const own = typeof source === 'string' ? source : Uint8Array.prototype.slice.call(source);
      worker.postMessage({ id, base64, source: own, bytesMax, pixelsMax }, typeof own === 'string' ? [] : [own.buffer]);
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
    if ('error' in answer) job.reject(new ImageError(answer.error));
    else job.resolve({ width: answer.width, height: answer.height, pixels: answer.pixels });
  }

  #lost(worker: Worker): void {
    if (worker !== this.#worker) return;
    this.#worker = null;
    for (const job of this.#jobs.values()) job.reject(new ImageError('the image could not be decoded'));
    this.#jobs.clear();
  }
}

function checkHead(head: string): void {
  if (!/^data:.*;base64$/is.test(head)) throw new ImageError('a data: URL must hold base64');
}

/** Lets a number of tasks through at a time, in the order they came. */
class Gate {
  #running = 0;
  readonly #waiting: Array<() => void> = [];
  readonly #most: number;

  constructor(most: number) {
    this.#most = most;
  }

  get waiting(): number {
    return this.#waiting.length;
  }

  async pass<T>(task: () => Promise<T>): Promise<T> {
    if (this.#running >= this.#most) await new Promise<void>((resolve) => this.#waiting.push(resolve));
    else this.#running++;
    try {
      return await task();
    } finally {
      // The place goes to whoever waits longest.
      const next = this.#waiting.shift();
      if (next) next();
      else this.#running--;
    }
  }
}
