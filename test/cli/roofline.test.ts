import { describe, expect, it } from 'vitest';
import { roofline } from '../../server/cli/roofline.ts';

const profile = (name: string, bandwidth: number, gibibytes: number) => ({
  name,
  sm: 89,
  bandwidth_gb_s: bandwidth,
  memory_bytes: gibibytes * 2 ** 30,
});

describe('the roofline of a device', () => {
  it('reads what targets.md says a 7B token reads, and divides the bandwidth by it', () => {
    const [row] = roofline([profile('h200', 4470, 141)]);
    // 3.61 GB there with another layout's metadata; KV of 256 tokens on top here.
    expect(row!.gigabytes_a_token).toBeGreaterThan(3.4);
    expect(row!.gigabytes_a_token).toBeLessThan(3.65);
    expect(row!.limit_tokens_per_second).toBeCloseTo(4470 / row!.gigabytes_a_token, 6);
    expect(row!.expected_tokens_per_second).toBeLessThan(row!.limit_tokens_per_second);
  });

  it('leaves out what does not fit, and puts published figures where there are some', () => {
    const rows = roofline([profile('rtx-4070-laptop', 256, 8), profile('orin-nano', 68, 3)]);
    const laptop = rows.filter(({ device }) => device === 'rtx-4070-laptop');
    expect(laptop.map(({ shape }) => shape)).toContain('Llama-2-13B');
    expect(laptop.find(({ shape }) => shape === 'Llama-2-13B')).toMatchObject({
      published_tokens_per_second: 33,
      published_by: 'AWQ paper',
    });
    expect(rows.filter(({ device }) => device === 'orin-nano').map(({ shape }) => shape)).toEqual(['VILA-1.5-3B']);
  });

  it('never expects more than the limit, nor less than a fifth of it, on a card with a profile', () => {
    for (const row of roofline([profile('rtx-4090', 1008, 24), profile('orin-agx', 204.8, 64)]))
      expect(row.expected_tokens_per_second / row.limit_tokens_per_second).toBeGreaterThan(0.2);
  });
});
