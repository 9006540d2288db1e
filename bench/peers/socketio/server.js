// The Socket.IO peer, with its defaults: one room, no recovery log, no compression. A client that
// connects with `?subscribe=1` is in the room; what any client sends as "publish" goes to the room.
"use strict";

const http = require("node:http");
const { Server } = require("socket.io");

const server = http.createServer();
const io = new Server(server, { transports: ["websocket"], serveClient: false });

io.on("connection", (socket) => {
  if (socket.handshake.query.subscribe) socket.join("bench");
  socket.on("publish", (text) => io.to("bench").emit("message", text));
});

server.listen(0, "127.0.0.1", 4096, () => {
  process.stderr.write(`listening on http://127.0.0.1:${server.address().port}\n`);
});
