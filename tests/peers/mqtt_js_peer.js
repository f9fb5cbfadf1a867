// One publish with MQTT.js: PORT CA CERT KEY TLS-VERSION DEVICE TOPIC PAYLOAD. Exit code 0 when it was acknowledged.
'use strict'
const fs = require('node:fs')
const mqtt = require('mqtt')

const [port, ca, cert, key, version, device, topic, payload] = process.argv.slice(2)
const client = mqtt.connect(`mqtts://localhost:${port}`, {
  ca: fs.readFileSync(ca),
  cert: fs.readFileSync(cert),
  key: fs.readFileSync(key),
  minVersion: version,
  maxVersion: version,
  clientId: device,
  protocolVersion: 5,
  reconnectPeriod: 0,
  connectTimeout: 10000
})
const end = (error) => {
  if (error) console.error(error.message)
  client.end(true, {}, () => process.exit(error ? 1 : 0))
}
client.on('error', end)
client.on('close', () => end(new Error('the connection was closed')))
client.on('connect', () => {
  const socket = client.stream
  if (socket.getProtocol() !== version) return end(new Error(`over ${socket.getProtocol()}`))
  client.publish(topic, payload, { qos: 1 }, (error) => {
    client.removeAllListeners('close')
    end(error)
  })
})
