// Loaded before the server: notes every attempt of its JavaScript to reach another machine. Used beside a network
// namespace, and alone where none may be made; the engine's library is looked at by itself.

import dgram from 'node:dgram';
import dns from 'node:dns';
import net from 'node:net';

globalThis.outgoingAttempts = [];
const note = (what) => globalThis.outgoingAttempts.push(what);
const isOwn = (host) => host === undefined || /^(localhost|127\.|::1$)/.test(host);

const { connect } = net.Socket.prototype;
net.Socket.prototype.connect = function (...given) {
  const options = Array.isArray(given[0]) ? given[0][0] : given[0];
  const host = typeof options === 'object' ? options?.host : given[1];
  if (!(typeof options === 'object' && options?.path) && !isOwn(host)) note(`connect ${host}`);
  return connect.apply(this, given);
};
for (const target of [dns, dns.promises]) {
  for (const name of Object.keys(target).filter((key) => /^(lookup|resolve)/.test(key))) {
    const original = target[name];
    if (typeof original !== 'function') continue;
    target[name] = function (host, ...rest) {
      if (!isOwn(host)) note(`${name} ${host}`);
      return original.call(this, host, ...rest);
    };
  }
}
for (const name of ['send', 'connect']) {
  const original = dgram.Socket.prototype[name];
  dgram.Socket.prototype[name] = function (...given) {
    note(`udp ${name}`);
    return original.apply(this, given);
  };
}
