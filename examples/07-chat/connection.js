// One WebSocket for all rooms, with the subprotocol `tidegate.v1.json`: commands have a number and get one reply, all
// else is pushed. A room keeps its cursor: a connection that is lost is made again, and goes on behind it.

/** What is known of each room: what was said, and who is here, by the id of their connection. */
export const rooms = new Map()
/** The connection's own id, once there is one. */
export let session
export let isConnected = false

let socket, changed, patience, heard
let failures = 0
let commands = 0
/** What was not yet accepted is sent again on the next connection; its key keeps it from being said twice. */
const unanswered = new Map()

export function publish(channel, data) {
  const command = { id: ++commands, publish: { channel, data, key: crypto.randomUUID() } }
  unanswered.set(command.id, command)
  if (isConnected) socket.send(JSON.stringify(command))
}

export function connect(gateway, onChange) {
  changed = onChange
  socket = new WebSocket(`${gateway.replace('http', 'ws')}/connect`, 'tidegate.v1.json')
  socket.onmessage = ({ data }) => {
    receive(JSON.parse(data))
    changed()
  }
  socket.onclose = () => {
    isConnected = false
    clearTimeout(heard)
    changed()
    // Longer each time, and no two alike: else all come back at once to a gateway that was restarted.
    setTimeout(connect, Math.random() * Math.min(15_000, 500 * 2 ** failures++), gateway, changed)
  }
}

/** Takes one frame: a reply to command `id`, or a push. */
function receive({ id, welcome, subscribed, published, message, gap, presence, join, leave, error }) {
  const room = rooms.get((subscribed ?? message ?? gap ?? presence ?? join ?? leave)?.channel)
  if (welcome) begin(welcome)
  // Where nothing is pushed for longer than was announced, the network has lost us.
  clearTimeout(heard)
  heard = setTimeout(() => socket.close(), patience)
  if (subscribed) room.cursor = subscribed.cursor
  if (message) {
    room.cursor = message.cursor
    room.items.push(message.data)
  }
  if (gap) {
    room.cursor = gap.resumed
    room.items.push({ note: 'Messages may be missing here.' })
  }
  if (presence) room.members = new Map(presence.members.map((member) => [member.id, member]))
  if (join) room.members.set(join.member.id, join.member)
  if (leave) room.members.delete(leave.member.id)
  // A gateway that goes away says `unavailable`: the next one is asked again.
  if (published || (error && error.code !== 'unavailable')) unanswered.delete(id)
}

/** The connection is there: comes back to each room where it was. */
function begin(welcome) {
  session = welcome.session
  isConnected = true
  failures = 0
  patience = (welcome.ping + 10) * 1000
  for (const [channel, { cursor }] of rooms) {
    const subscribe = cursor ? { channel, since: cursor } : { channel, last: 50 }
    socket.send(JSON.stringify({ id: ++commands, subscribe }))
  }
  for (const command of unanswered.values()) socket.send(JSON.stringify(command))
}
