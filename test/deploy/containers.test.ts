// The container files without a container engine: linted, and everything they name must be there.

import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { validate } from 'dockerfile-utils';
import { describe, expect, it } from 'vitest';
import { parse } from 'yaml';
import { readDockerfile } from '../../scripts/lib/dockerfile.mjs';

const root = join(import.meta.dirname, '../..');
const read = (path: string) => readFileSync(join(root, path), 'utf8');
const dockerfiles = readdirSync(join(root, 'docker')).filter((name) => name.startsWith('Dockerfile'));
const composeFiles = readdirSync(join(root, 'docker')).filter((name) => /^compose\..*\.yaml$/.test(name));
const packageScripts = JSON.parse(read('package.json')).scripts as Record<string, string>;

const stagesOf = (name: string) => readDockerfile(read(`docker/${name}`));
const stepsOf = (name: string) => stagesOf(name).flatMap(({ steps }) => steps);

describe.each(dockerfiles)('docker/%s', (name) => {
  const last = stagesOf(name).at(-1)!.steps;
  const find = (keyword: string) => last.filter((step) => step.keyword === keyword);

  it('has no problem that the linter of Docker files knows', () => {
    expect(validate(read(`docker/${name}`)).map(({ message, range }) => `${range.start.line + 1}: ${message}`)).toEqual(
      [],
    );
  });

  it('pins its base images, and copies only from stages before', () => {
    const seen: string[] = [];
    for (const stage of stagesOf(name)) {
      expect(stage.base).toMatch(/^[\w./-]+:[\w.-]*\d[\w.-]*$/);
      for (const { keyword, flags } of stage.steps)
        if (keyword === 'COPY' && flags.from) expect(seen).toContain(flags.from);
      seen.push(stage.name);
    }
  });

  it('copies and runs only what is in the clone', () => {
    for (const step of stepsOf(name)) {
      if (step.keyword === 'COPY' && !step.flags.from)
        for (const source of step.args.slice(0, -1)) expect(existsSync(join(root, source)), source).toBe(true);
      for (const [, file] of step.text.matchAll(/\b(?:node|sh) ((?:scripts|docker)\/\S+)/g))
        expect(existsSync(join(root, file!)), file).toBe(true);
    }
  });

  it('installs packages without recommendations and leaves no lists', () => {
    for (const { text } of stepsOf(name).filter((step) => step.text.includes('apt-get install'))) {
      expect(text).toContain('--no-install-recommends');
      expect(text).toContain('rm -rf /var/lib/apt/lists/*');
    }
  });

  it('builds for GPUs that the kernels are written for', () => {
    const known = /set\(HEARTH_CUDA_ALL ([\d ]+)\)/
      .exec(read('engine-native/src/kernels/cuda/CMakeLists.txt'))![1]!
      .split(' ');
    const build = stepsOf(name).find((step) => step.text.includes('build-native.mjs'))!;
    const wanted = /--cuda=([^"\s]+)/
      .exec(build.text)![1]!
      .replace(/\$\{?(\w+)\}?/, (_, arg) => build.arguments![arg]!);
    if (wanted !== 'off') expect(known).toEqual(expect.arrayContaining(wanted.split(';')));
  });

  it('ends as a user without rights, healthy by a check of its own, with signals reaching node', () => {
    expect(find('USER').at(-1)?.args).toEqual(['node']);
    expect(find('HEALTHCHECK').at(-1)?.text).toContain('/health/ready');
    for (const keyword of ['ENTRYPOINT', 'CMD'])
      expect(find(keyword).at(-1)?.json, `${keyword} in exec form`).toBe(true);
    expect(find('ENTRYPOINT').at(-1)?.args[0]).toBe('node');
    expect(find('VOLUME').at(-1)?.args).toEqual(['/models']);
  });
});

describe.each(composeFiles)('docker/%s', (name) => {
  // Docker's own tags of merged files mean nothing to a YAML reader.
  const text = read(`docker/${name}`).replaceAll('!reset ', '');
  const { services, volumes = {} } = parse(text) as {
    services: Record<
      string,
      { build?: { context: string; dockerfile: string }; volumes?: string[]; [key: string]: unknown }
    >;
    volumes?: Record<string, unknown>;
  };

  it('names files and volumes that exist', () => {
    for (const service of Object.values(services)) {
      if (service.build)
        expect(existsSync(resolve(root, 'docker', service.build.context, service.build.dockerfile))).toBe(true);
      for (const [source] of (service.volumes ?? []).map((volume) => volume.split(':')))
        if (source!.startsWith('.')) expect(existsSync(join(root, 'docker', source!)), source).toBe(true);
        else expect(Object.keys(volumes)).toContain(source);
    }
  });

  it('runs Hearth on a read-only root, without new privileges, with time to drain', () => {
    const { hearth } = services;
    if (!hearth?.build) return;
    expect(hearth).toMatchObject({ read_only: true, tmpfs: ['/tmp'], stop_grace_period: '60s' });
    expect(hearth.security_opt).toContain('no-new-privileges:true');
  });
});

it('docker/collect.sh collects what the image runs, from a clone', () => {
  for (const [, list] of read('docker/collect.sh').matchAll(/^cp -r (.+) "\$target\/"$/gm))
    for (const path of list!.split(' ').filter((path) => path !== 'node_modules'))
      expect(existsSync(join(root, path)), path).toBe(true);
  expect(packageScripts['test:docker']).toContain('scripts/test-docker.mjs');
});
