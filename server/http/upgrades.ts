// Connections that ask for an upgrade. WebSocket is all that is spoken beside HTTP/1.1; who asks for something else, as
// Java's own client asks for HTTP/2 with every request, is answered as if it had not.

import { EventEmitter } from 'node:events';
import type { IncomingMessage } from 'node:http';
import type { Duplex } from 'node:stream';
import { TLSSocket } from 'node:tls';
import type { FastifyInstance } from 'fastify';

declare module 'fastify' {
  interface FastifyInstance {
    /** Emits 'upgrade' for connections that ask for a WebSocket, and 'goodbye' shortly before all of them are ended. */
    webSockets: EventEmitter;
  }
}

/** How long clients have to read the goodbye. */
const goodbyeMs = 50;

/** Takes them from the app's server; closing the app ends them all. */
export function takeUpgrades(app: FastifyInstance): EventEmitter {
  const webSockets = new EventEmitter();
  const open = new Set<Duplex>();
  app.server.on('upgrade', (request: IncomingMessage, socket: Duplex, head: Buffer) => {
    if (!open.has(socket)) socket.once('close', () => open.delete(socket));
    open.add(socket);
    // A handshake is a GET; proxies are known to put the header into every request.
    const isHandshake = request.method === 'GET' && request.headers.upgrade?.toLowerCase() === 'websocket';
    if (isHandshake) webSockets.emit('upgrade', request, socket, head);
    else serveAsAsked(app, request, socket, head);
  });
  // Before @fastify/websocket and Node wait for connections to end: these are not Node's to close any more, whether they
  // got an upgrade or not.
  app.addHook('preClose', async () => {
    webSockets.emit('goodbye');
    await new Promise((resolve) => setTimeout(resolve, open.size ? goodbyeMs : 0));
    for (const socket of open) socket.destroy();
  });
  return webSockets;
}

/** Gives a connection back to the server, with its request as it came but for the wish. Node has not read its body yet. */
function serveAsAsked(app: FastifyInstance, request: IncomingMessage, socket: Duplex, head: Buffer): void {
  const lines = [`${request.method} ${request.url} HTTP/${request.httpVersion}`];
  const { rawHeaders } = request;
  for (let at = 0; at < rawHeaders.length; at += 2) {
    const name = rawHeaders[at]!;
    if (!/^(?:upgrade|http2-settings)$/i.test(name))
      lines.push(`${name}: ${withoutUpgrade(name, rawHeaders[at + 1]!)}`);
  }
  socket.unshift(Buffer.concat([Buffer.from(`${lines.join('\r\n')}\r\n\r\n`, 'latin1'), head]));
  app.server.emit(socket instanceof TLSSocket ? 'secureConnection' : 'connection', socket);
}

function withoutUpgrade(name: string, value: string): string {
  if (name.toLowerCase() !== 'connection') return value;
  const kept = value.split(',').filter((token) => !/^(?:upgrade|http2-settings)$/i.test(token.trim()));
  return kept.join(',').trim() || 'keep-alive';
}
