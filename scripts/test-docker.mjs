// npm run test:docker [-- --file docker/Dockerfile.cpu] [--keep]: the steps of a Dockerfile without a container engine.
//
// Each stage becomes a folder made by debootstrap (in place of node:…-bookworm-slim, with this machine's Node in it); RUN is
// a chroot, COPY a copy, in the order of the file. Then the image's own command runs as its own user with every
// capability dropped, on a read-only root, and must get healthy by its own HEALTHCHECK, answer a chat and end with 0 on
// SIGTERM. Needs root, debootstrap and Debian's archive. Images that build on nvidia/cuda are only linted (npm test does).
import { execFileSync, spawn, spawnSync } from 'node:child_process';
import {
  appendFileSync,
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { parseArgs } from 'node:util';
import { root } from './lib/build.mjs';
import { readDockerfile } from './lib/dockerfile.mjs';
import { fail, stageDone } from './lib/terminal.mjs';

const port = 8080;
const key = 'test-docker';
const path = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin';
const user = { name: 'node', id: '1000' };
/** The certificates that this machine trusts: a network may have an authority of its own. */
const certificates = '/etc/ssl/certs/ca-certificates.crt';
/** What `docker build` passes on by itself, and how this machine reaches npm's packages. */
const passedOn = {
  NODE_EXTRA_CA_CERTS: certificates,
  ...Object.fromEntries(
    Object.entries(process.env).filter(([name]) => /^(https?_proxy|no_proxy|npm_config_registry)$/i.test(name)),
  ),
};

const run = (command, args, options = {}) => {
  const result = spawnSync(command, args, { stdio: ['ignore', 'inherit', 'inherit'], ...options });
  if (result.error || result.status !== 0)
    fail(
      `test:docker: ${command} ${args.join(' ').slice(0, 120)} ended with ${result.status ?? result.error.message}`,
      1,
    );
};

/** debootstrap's minimal Debian with this machine's Node, as node:…-slim is; made once and copied. */
function baseImage(work) {
  const base = join(work, 'base');
  const startedAt = performance.now();
  run('debootstrap', ['--variant=minbase', '--include=ca-certificates', 'bookworm', base], {
    stdio: ['ignore', 'ignore', 'inherit'],
  });
  cpSync(process.execPath, join(base, 'usr/local/bin/node'), { dereference: true });
  const npm = dirname(dirname(execFileSync('sh', ['-c', 'readlink -f "$(command -v npm)"'], { encoding: 'utf8' })));
  cpSync(npm, join(base, 'usr/local/lib/node_modules/npm'), { recursive: true });
  run('sh', [
    '-c',
    `cd ${base}/usr/local/bin && ln -s ../lib/node_modules/npm/bin/npm-cli.js npm && ln -s ../lib/node_modules/npm/bin/npx-cli.js npx`,
  ]);
  for (const file of ['/etc/resolv.conf', '/etc/hosts', certificates])
    cpSync(file, join(base, file), { dereference: true });
  appendFileSync(join(base, 'etc/passwd'), `${user.name}:x:${user.id}:${user.id}::/home/node:/bin/sh\n`);
  appendFileSync(join(base, 'etc/group'), `${user.name}:x:${user.id}:\n`);
  stageDone('Debian with Node, in place of node:…-bookworm-slim', startedAt);
  return base;
}

/** Runs in the stage's folder as its root, with /proc and /dev as a container has them. */
const chroot = (folder, workdir, environment, command, wrap = []) => {
  const pairs = Object.entries({ PATH: path, HOME: '/root', ...passedOn, ...environment }).map(
    ([name, value]) => `${name}=${value}`,
  );
  const mounts = `mount -t proc proc ${folder}/proc && mount --rbind /dev ${folder}/dev`;
  const inner = ['chroot', folder, ...wrap, 'env', '-i', '-C', workdir, ...pairs, ...command];
  return ['-m', '--propagation', 'private', 'sh', '-c', `${mounts} && exec "$@"`, 'sh', ...inner];
};

/** The build context: what git would have in a clone, without what .dockerignore names. */
function contextFiles() {
  const ignored = readFileSync(join(root, '.dockerignore'), 'utf8').split('\n').filter(Boolean);
  const patterns = ignored.map((line) => new RegExp(`^${line.replaceAll('.', '\\.').replaceAll('*', '[^/]*')}(/|$)`));
  const listed = execFileSync('git', ['ls-files', '-co', '--exclude-standard'], {
    cwd: root,
    encoding: 'utf8',
    maxBuffer: 64e6,
  });
  return listed
    .split('\n')
    .filter((file) => file && existsSync(join(root, file)) && !patterns.some((pattern) => pattern.test(file)));
}

function copy(step, folder, workdir, stages) {
  const sources = step.args.slice(0, -1);
  const target = step.args.at(-1);
  const to = join(folder, target.startsWith('/') ? target : join(workdir, target));
  if (step.flags.from) {
    const from = stages.get(step.flags.from);
    if (!from) fail(`test:docker: COPY --from=${step.flags.from}: no such stage before it`, 1);
    for (const source of sources) cpSync(join(from, source), to, { recursive: true, verbatimSymlinks: true });
    return;
  }
  const files = contextFiles();
  for (const source of sources) {
    const chosen = source === '.' ? files : files.filter((file) => file === source || file.startsWith(`${source}/`));
    if (chosen.length === 0) fail(`test:docker: COPY ${source}: not in the build context`, 1);
    for (const file of chosen) {
      mkdirSync(dirname(join(to, file)), { recursive: true });
      cpSync(join(root, file), join(to, file), { verbatimSymlinks: true });
    }
  }
}

/** Makes one stage; returns what its image would be configured as. */
function buildStage(stage, folder, stages) {
  const image = { workdir: '/', environment: {}, user: '', entrypoint: [], command: [], health: [] };
  for (const step of stage.steps) {
    const startedAt = performance.now();
    if (step.keyword === 'RUN')
      run(
        'unshare',
        chroot(folder, image.workdir, { ...step.arguments, ...image.environment }, ['sh', '-c', step.text]),
      );
    else if (step.keyword === 'COPY') copy(step, folder, image.workdir, stages);
    else if (step.keyword === 'WORKDIR') {
      image.workdir = step.args[0];
      mkdirSync(join(folder, image.workdir), { recursive: true });
    } else if (step.keyword === 'ENV') Object.assign(image.environment, step.values);
    else if (step.keyword === 'USER') image.user = step.args[0];
    else if (step.keyword === 'ENTRYPOINT') image.entrypoint = step.args;
    else if (step.keyword === 'CMD') image.command = step.args;
    else if (step.keyword === 'HEALTHCHECK') image.health = step.args;
    else if (!['VOLUME', 'EXPOSE', 'STOPSIGNAL', 'LABEL'].includes(step.keyword))
      fail(`test:docker cannot do ${step.keyword}: teach scripts/test-docker.mjs`, 1);
    if (['RUN', 'COPY'].includes(step.keyword))
      stageDone(`${step.keyword} ${step.text.split('\n')[0].slice(0, 70)}`, startedAt);
  }
  return image;
}

const megabytes = (folder) => Number(execFileSync('du', ['-sm', folder], { encoding: 'utf8' }).split('\t')[0]);

/** The image's command as its user, all capabilities dropped, on a read-only root with /tmp and the volume writable. */
function start(folder, image) {
  const environment = { ...image.environment, HEARTH_API_KEY: key };
  const drop = [
    'setpriv',
    `--reuid=${user.id}`,
    `--regid=${user.id}`,
    '--clear-groups',
    '--no-new-privs',
    '--bounding-set=-all',
  ];
  const args = chroot(folder, image.workdir, environment, [...image.entrypoint, ...image.command], drop);
  const at = args.indexOf('-c') + 1;
  // Read-only as compose files have it: the root, then /tmp and /models on top.
  args[at] =
    `mount --bind ${folder} ${folder} && ${args[at].replace(' && exec', ` && mount -t tmpfs tmpfs ${folder}/tmp && mount --bind ${folder}/models ${folder}/models && mount -o remount,bind,ro ${folder} && exec`)}`;
  return spawn('unshare', args, { stdio: ['ignore', 'inherit', 'inherit'] });
}

async function untilHealthy(folder, image, child) {
  for (let turn = 0; turn < 600; turn++) {
    if (child.exitCode !== null) fail(`test:docker: the server ended with ${child.exitCode}`, 1);
    const check = spawnSync('unshare', chroot(folder, image.workdir, image.environment, image.health), {
      stdio: 'ignore',
    });
    if (check.status === 0) return;
    await new Promise((resolve) => setTimeout(resolve, 200));
  }
  fail('test:docker: HEALTHCHECK never passed', 1);
}

async function ask() {
  const body = JSON.stringify({ model: 'default', messages: [{ role: 'user', content: 'Hello' }], max_tokens: 8 });
  const url = `http://127.0.0.1:${port}/v1/chat/completions`;
  const headers = { 'content-type': 'application/json' };
  const refused = await fetch(url, { method: 'POST', headers, body });
  if (refused.status !== 401) fail(`test:docker: without a key the answer was ${refused.status}, not 401`, 1);
  const answer = await fetch(url, { method: 'POST', headers: { ...headers, authorization: `Bearer ${key}` }, body });
  const { choices } = await answer.json();
  if (!choices?.[0]?.message?.content) fail(`test:docker: no answer (${answer.status})`, 1);
  return choices[0].message.content;
}

async function tryImage(folder, image) {
  if (image.user !== user.name) fail(`test:docker: the image runs as '${image.user}', not as ${user.name}`, 1);
  const startedAt = performance.now();
  const child = start(folder, image);
  const ended = new Promise((resolve) => child.once('exit', (code, signal) => resolve(signal ?? code)));
  await untilHealthy(folder, image, child);
  stageDone('healthy, as a user without capabilities on a read-only root', startedAt);
  console.log(`  "Hello" → ${JSON.stringify(await ask())}`);
  child.kill('SIGTERM');
  const outcome = await ended;
  if (outcome !== 0) fail(`test:docker: SIGTERM ended it with ${outcome}, not 0`, 1);
}

const { values } = parseArgs({
  options: { file: { type: 'string', default: 'docker/Dockerfile.cpu' }, keep: { type: 'boolean', default: false } },
});
if (process.getuid() !== 0) fail('test:docker needs root (chroot and mounts): sudo npm run test:docker');
if (spawnSync('debootstrap', ['--version']).error) fail('test:docker needs: apt-get install -y debootstrap');
const stages = readDockerfile(readFileSync(join(root, values.file), 'utf8'));
const foreign = stages.find(({ base }) => !/^node:\d+-bookworm-slim$/.test(base));
if (foreign) fail(`test:docker cannot stand in for ${foreign.base}: only images on node:…-bookworm-slim run here`);
const work = mkdtempSync(join(tmpdir(), 'hearth-docker-'));
try {
  const base = baseImage(work);
  const made = new Map();
  let folder = '';
  let image;
  for (const [index, stage] of stages.entries()) {
    folder = join(work, `stage-${index}`);
    run('cp', ['-a', base, folder]);
    image = buildStage(stage, folder, made);
    made.set(stage.name, folder);
  }
  console.log(`  the image: ${megabytes(folder) - megabytes(base)} MB over its base`);
  await tryImage(folder, image);
  console.log(`test:docker: ${values.file} builds and serves`);
} finally {
  if (values.keep) writeFileSync(join(work, 'README'), 'kept by npm run test:docker -- --keep\n');
  else rmSync(work, { recursive: true, force: true });
}
