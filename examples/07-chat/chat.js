// What is seen of the chat, drawn anew at each change. What is said and heard is connection.js's.

import * as chat from './connection.js'

const get = (id) => document.getElementById(id)
/** Who someone is, before there are tokens: the end of a connection's id. */
const nameOf = (session) => `guest-${session.slice(-4)}`

for (const name of ['lobby', 'harbour', 'weather']) chat.rooms.set(`room.${name}`, { items: [], members: new Map() })
let current = 'room.lobby'

function draw() {
  const room = chat.rooms.get(current)
  room.seen = room.items.length
  get('state').textContent = chat.isConnected ? 'connected' : 'reconnecting'
  get('me').textContent = chat.session ? nameOf(chat.session) : 'nobody yet'
  get('room').textContent = current.replace('room.', '')
  get('members').replaceChildren(...[...room.members.keys()].map((id) => element('li', nameOf(id))))
  get('rooms').replaceChildren(...[...chat.rooms.keys()].map(button))
  get('messages').replaceChildren(...room.items.map(line))
  get('messages').lastElementChild?.scrollIntoView()
}

// Text is put in as text: what others say can't become part of the page.
const element = (tag, text, props) => Object.assign(document.createElement(tag), { textContent: text }, props)

function button(channel) {
  const { items, seen = 0 } = chat.rooms.get(channel)
  const name = channel.replace('room.', '')
  const onclick = () => draw((current = channel))
  return element('button', items.length > seen ? `${name} (${items.length - seen})` : name, { onclick })
}

function line({ from, text, note }) {
  if (note) return element('li', note, { className: 'note' })
  const line = element('li', ` ${text}`)
  line.prepend(element('b', from))
  return line
}

get('say').onsubmit = (event) => {
  event.preventDefault()
  chat.publish(current, { from: get('me').textContent, text: get('text').value })
  get('text').value = ''
}
chat.connect(new URLSearchParams(location.search).get('gateway'), draw)
