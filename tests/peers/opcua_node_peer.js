// An OPC UA server made by node-opcua, with the nodes and the requests of opcua_peer.py. Argument and answers: see answering.py.
'use strict'
const fs = require('node:fs')
const readline = require('node:readline')
const { DataType, MessageSecurityMode, OPCUACertificateManager, OPCUAServer, SecurityPolicy, StatusCodes, Variant } = require('node-opcua')

const given = JSON.parse(process.argv[2])
const say = (answer) => process.stdout.write(JSON.stringify(answer) + '\n')
// What the library prints goes where logs go: standard output is for answers.
console.log = console.warn = console.info = (...what) => process.stderr.write(what.join(' ') + '\n')

async function main () {
  const server = new OPCUAServer({
    port: given.port,
    hostname: '127.0.0.1',
    securityPolicies: [SecurityPolicy.None],
    securityModes: [MessageSecurityMode.None],
    serverCertificateManager: new OPCUACertificateManager({ rootFolder: `${given.folder}/pki` }),
    userCertificateManager: new OPCUACertificateManager({ rootFolder: `${given.folder}/users` }),
    allowAnonymous: true,
    disableDiscovery: true,
    serverCapabilities: given.capabilities,
    serverInfo: { applicationUri: 'urn:fieldgate:peers:node' }
  })
  await server.initialize()
  const space = server.engine.addressSpace
  for (let number = 0; number < (given.decoys || 0); number++) space.registerNamespace(`urn:fieldgate:peers:decoy-${number}`)
  const namespace = space.registerNamespace('urn:fieldgate:peers')
  const nodes = {}
  const add = ({ names, value = 1.0, type = 'Double', writable = false }) => {
    for (const name of names) {
      const variable = namespace.addVariable({
        organizedBy: space.rootFolder.objects, browseName: name, nodeId: `s=${name}`, dataType: type, minimumSamplingInterval: 50,
        accessLevel: writable ? 'CurrentRead | CurrentWrite' : 'CurrentRead', userAccessLevel: writable ? 'CurrentRead | CurrentWrite' : 'CurrentRead'
      })
      nodes[name] = { variable, type }
      write({ names: [name], value })
    }
  }
  const write = ({ names, value }) => {
    for (const name of names) {
      nodes[name].variable.setValueFromSource(new Variant({ dataType: DataType[nodes[name].type], value }), StatusCodes.Good)
    }
  }
  const remove = ({ names }) => {
    for (const name of names) {
      namespace.deleteNode(nodes[name].variable)
      delete nodes[name]
    }
  }
  add({ names: ['Level'], value: 12.5, writable: true })
  add({ names: ['Ticks'], value: 0, type: 'UInt32' })
  add({ names: ['Running'], value: true, type: 'Boolean' })
  add({ names: ['Label'], value: 'boiler', type: 'String' })
  add({ names: ['Locked'], value: 1.0 })
  add({ names: given.nodes || [] })
  if (given.alarms) {
    space.installAlarmsAndConditionsService()
    const objects = space.rootFolder.objects
    const plant = namespace.addObject({ organizedBy: objects, browseName: 'Plant', eventNotifier: 1, notifierOf: objects.server })
    const tank = namespace.addObject({ componentOf: plant, browseName: 'Tank', eventSourceOf: plant })
    const heat = namespace.addVariable({ componentOf: tank, browseName: 'Heat', nodeId: 's=Heat', dataType: 'Double', eventSourceOf: tank })
    nodes.Heat = { variable: heat, type: 'Double' }
    write({ names: ['Heat'], value: 20.0 })
    namespace.instantiateExclusiveLimitAlarm('ExclusiveLimitAlarmType', {
      componentOf: tank, browseName: 'HeatAlarm', conditionName: 'HeatAlarm', conditionSource: heat, inputNode: heat,
      highHighLimit: 95, highLimit: 80, lowLimit: -20, lowLowLimit: -40
    })
  }
  await server.start()
  let count = 0
  setInterval(() => write({ names: ['Ticks'], value: ++count }), 200)

  const handlers = { add, write, remove, read: ({ name }) => nodes[name].variable.readValue().value.value }
  say({ value: 'ready' })
  readline.createInterface({ input: process.stdin })
    .on('line', (line) => {
      const request = JSON.parse(line)
      try {
        const value = handlers[request.op](request)
        say({ value: value === undefined ? null : value })
      } catch (error) {
        say({ error: String(error) })
      }
    })
    // The harness is gone.
    .on('close', () => process.exit(0))
}

main().catch((error) => {
  fs.writeSync(2, `${error.stack}\n`)
  process.exit(1)
})
