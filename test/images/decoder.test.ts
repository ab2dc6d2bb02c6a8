// Pictures as people send them: every kind decodes to RGB8 upright on white, or is refused in words for people.

import { readFileSync } from 'node:fs';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { afterAll, afterEach, beforeEach, describe, expect, it } from 'vitest';
import { ImageDecoder, ImageError } from '../../server/images/decoder.ts';
import { isPublicAddress } from '../../server/images/fetch.ts';

const limits = { bytesMax: 5_000_000, pixelsMax: 10_000_000, urlHosts: [] as string[] };
const decoder = new ImageDecoder(limits);
afterAll(() => decoder.close());

const file = (name: string) => readFileSync(new URL(`../fixtures/images/${name}`, import.meta.url));
const dataUrl = (bytes: Uint8Array, type = 'image/png') =>
  `data:${type};base64,${Buffer.from(bytes).toString('base64')}`;
const load = (name: string, own = decoder) => own.load(dataUrl(file(name)), 'auto');

function pixel(image: { width: number; pixels: Uint8Array }, x: number, y: number): number[] {
  const at = (y * image.width + x) * 3;
  return [...image.pixels.subarray(at, at + 3)];
}

/** Mean absolute difference of two pictures of one size. */
function difference(a: { pixels: Uint8Array }, b: { pixels: Uint8Array }): number {
  let sum = 0;
  for (let at = 0; at < a.pixels.length; at++) sum += Math.abs(a.pixels[at]! - b.pixels[at]!);
  return sum / a.pixels.length;
}

describe('what decodes', () => {
  for (const [name, width, height] of [
    ['pillow-hopper.jpg', 128, 128],
    ['pillow-hopper.png', 128, 128],
    ['pillow-hopper.webp', 128, 128],
    ['pillow-hopper.gif', 128, 128],
    ['pillow-hopper.bmp', 128, 128],
    ['pillow-hopper_gray.jpg', 128, 128],
    ['pillow-pil123p.png', 162, 150],
    ['pillow-pil_sample_cmyk.jpg', 100, 100],
    ['pillow-apng-mode_16bit.png', 128, 64],
    ['pillow-dispose_bgnd.gif', 100, 100],
    ['imagers-anim.webp', 200, 200],
    ['imagers-lossless.webp', 300, 300],
    ['imagers-progressive-3.jpg', 650, 470],
    ['imagers-exif-portrait_2.jpg', 113, 150],
    ['pngsuite-basi0g16.png', 32, 32],
    ['pngsuite-basn2c16.png', 32, 32],
    ['sharp-Flag_of_the_Netherlands-16bit.png', 900, 600],
  ] as const) {
    it(name, async () => {
      const image = await load(name);
      expect([image.width, image.height, image.pixels.length]).toEqual([width, height, width * height * 3]);
    });
  }

  it('16 bits become 8: the red, white and blue of a flag', async () => {
    const flag = await load('sharp-Flag_of_the_Netherlands-16bit.png');
    expect([pixel(flag, 450, 10), pixel(flag, 450, 300), pixel(flag, 450, 590)]).toEqual([
      [174, 28, 40],
      [255, 255, 255],
      [33, 70, 139],
    ]);
  });

  it('grey becomes three equal channels', async () => {
    const grey = await load('pillow-hopper_gray.jpg');
    const [r, g, b] = pixel(grey, 64, 64);
    expect([g, b]).toEqual([r, r]);
  });

  it('transparency is composited on white', async () => {
    for (const name of ['pillow-transparent.png', 'pillow-transparent.webp']) {
      expect(pixel(await load(name), 0, 0)).toEqual([255, 255, 255]);
    }
  });

  it('EXIF orientation is applied', async () => {
    const turned = await load('pillow-hopper_orientation_6.jpg');
    const upright = await load('pillow-hopper.jpg');
    // The file holds the photo turned, with a tag that says so.
    expect(difference(turned, upright)).toBeLessThan(10);
  });

  it('CMYK looks like its RGB twin', async () => {
    expect(difference(await load('pillow-pil_sample_cmyk.jpg'), await load('pillow-pil_sample_rgb.jpg'))).toBeLessThan(
      25,
    );
  });

  it('BMP is what its twin in PNG is', async () => {
    expect((await load('pillow-hopper.bmp')).pixels).toEqual((await load('pillow-hopper.png')).pixels);
  });

  it('memory that is given back holds the next pictures, and those are whole', async () => {
    const names = ['sharp-Flag_of_the_Netherlands-16bit.png', 'skimage-hubble_deep_field.jpg', 'vila-demo_img_1.png'];
    const fresh = await Promise.all(names.map((name) => load(name)));
    const copies = fresh.map((image) => image.pixels.slice());
    for (const image of fresh) image.release!();
    expect(fresh.map((image) => image.pixels.length)).toEqual([0, 0, 0]);
    // Some are smaller than what was in the memory before, and two are decoded at a time.
    const again = await Promise.all([...names, ...names].map((name) => load(name)));
    for (const [at, image] of again.entries()) expect(Buffer.compare(image.pixels, copies[at % 3]!)).toBe(0);
    for (const image of again) image.release!();
    for (const image of again) image.release!(); // gone already
  });

  it('the declared type is not believed', async () => {
    const image = await decoder.load(dataUrl(file('pillow-hopper.webp'), 'text/html'), 'low');
    expect(image).toMatchObject({ width: 128, detail: 'low' });
  });
});

describe('what is refused', () => {
  const refused = (url: string, words: RegExp, own = decoder) =>
    expect(own.load(url, 'auto')).rejects.toThrow(
      expect.objectContaining({ message: expect.stringMatching(words) }) as Error,
    );

  for (const name of [
    'pillow-broken.png',
    'pillow-truncated_jpeg.jpg',
    'pillow-zero_width.gif',
    'pillow-decompression_bomb.gif',
    'sharp-corrupt-header.jpg',
  ]) {
    it(name, async () => {
      await refused(dataUrl(file(name)), /^the image (is damaged|has more)/);
    });
  }

  it('formats that are not pictures for us, by their content', async () => {
    await refused(dataUrl(Buffer.from('<svg xmlns="http://www.w3.org/2000/svg"/>'), 'image/svg+xml'), /not JPEG, PNG/);
    await refused(dataUrl(Buffer.alloc(0)), /empty/);
  });

  it('data: URLs that are not base64', async () => {
    await refused('data:image/png,hello', /base64/);
    await refused('data:image/png;base64,!!!!', /base64/);
    await refused('data:image/png;base64', /base64/);
  });

  it('bytes and pixels over the limits, before they are decoded', async () => {
    const small = new ImageDecoder({ ...limits, bytesMax: 1000, pixelsMax: 1000 });
    await refused(dataUrl(file('pillow-hopper.jpg')), /larger than 1000 bytes/, small);
    await refused(dataUrl(file('pngsuite-basn2c16.png')), /more than 1000 pixels/, small);
    await small.close();
  });

  it('those whose turn comes when nobody waits for them any more', async () => {
    let gone = false;
    const goOn = () => {
      if (gone) throw new Error('gone');
    };
    const url = dataUrl(file('pillow-hopper.png'));
    const loads = Array.from({ length: 6 }, () => decoder.load(url, 'auto', goOn));
    await loads[0];
    gone = true;
    const outcomes = (await Promise.allSettled(loads)).map((load) =>
      load.status === 'fulfilled' ? 'decoded' : String(load.reason),
    );
    expect([outcomes[0], outcomes[5]]).toEqual(['decoded', 'Error: gone']);
    expect((await load('pillow-hopper.png')).width).toBe(128);
  });

  it('URLs, unless they are allowed', async () => {
    await refused('http://example.com/a.png', /not fetched here/);
    await refused('file:///etc/passwd', /not fetched here/);
  });
});

describe('image URLs', () => {
  let server: Server;
  let base: string;
  let hits: string[];
  beforeEach(async () => {
    hits = [];
    server = createServer((request, response) => {
      hits.push(request.url!);
      if (request.url === '/ok.jpg') response.end(file('pillow-hopper.jpg'));
      else if (request.url === '/away') response.writeHead(302, { location: 'http://169.254.169.254/latest' }).end();
      else if (request.url === '/loop') response.writeHead(302, { location: '/loop' }).end();
      else if (request.url === '/file') response.writeHead(302, { location: 'file:///etc/passwd' }).end();
      else if (request.url === '/big') for (let part = 0; part < 100; part++) response.write(Buffer.alloc(100_000));
      else response.writeHead(404).end();
    });
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    base = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  });
  afterEach(() => {
    server.closeAllConnections();
    server.close();
  });

  const web = (hosts: string[]) => new ImageDecoder({ ...limits, urlHosts: hosts });

  it('are fetched from a host that was named', async () => {
    expect(await web(['127.0.0.1']).load(`${base}/ok.jpg`, 'auto')).toMatchObject({ width: 128 });
    expect(await web(['localhost']).load(`${base.replace('127.0.0.1', 'localhost')}/ok.jpg`, 'auto')).toMatchObject({
      height: 128,
    });
  });

  it('are not fetched from private addresses by way of *', async () => {
    for (const host of ['127.0.0.1', 'localhost', '[::1]', '[::ffff:127.0.0.1]', '2130706433', '0x7f.1', '127.1']) {
      const url = `${base.replace('127.0.0.1', host)}/ok.jpg`;
      await expect(web(['*']).load(url, 'auto')).rejects.toThrow(/not allowed|cannot be found/);
    }
    expect(hits).toEqual([]);
  });

  it('redirects, sizes, statuses and schemes are checked', async () => {
    const own = web(['127.0.0.1']);
    for (const [path, words] of [
      ['/away', /not allowed/],
      ['/file', /must be http/],
      ['/loop', /redirects more than/],
      ['/big', /larger than/],
      ['/none', /status 404/],
    ] as const) {
      await expect(own.load(base + path, 'auto')).rejects.toThrow(words);
    }
    await expect(own.load('http://user:pw@127.0.0.1/', 'auto')).rejects.toThrow(ImageError);
  });

  it('knows which addresses are public', () => {
    const isNot = [
      '10.1.2.3',
      '100.64.0.1',
      '169.254.169.254',
      '172.31.0.1',
      '192.168.0.1',
      '0.0.0.0',
      '224.0.0.1',
      '255.255.255.255',
    ];
    const isNot6 = [
      '::',
      '::1',
      '::ffff:8.8.8.8',
      '64:ff9b::808:808',
      'fc00::1',
      'fe80::1',
      'ff02::1',
      '2002:a00:1::',
      '2001:db8::1',
      'x',
    ];
    for (const address of [...isNot, ...isNot6]) expect([address, isPublicAddress(address)]).toEqual([address, false]);
    for (const address of ['8.8.8.8', '172.32.0.1', '2606:4700::1111']) expect(isPublicAddress(address)).toBe(true);
  });
});
