// node's ssh2 as a program of its own: PORT USER HOST_KEY LOCAL BACK. Logs in by what it is told on keyboard-interactive
// (shown on standard error), runs a command, and copies LOCAL there and back over the same connection.
import { createRequire } from 'node:module'
import { promisify } from 'node:util'

const [port, username, hostKey, local, back] = process.argv.slice(2)
const { Client } = createRequire(`${process.env.NODE_PATH}/`)('ssh2')

function run(client, command, input) {
  return new Promise((resolve, reject) => {
    client.exec(command, (error, stream) => {
      if (error) return reject(error)
      const ran = { out: '', err: '', status: null }
      stream.on('data', (data) => { ran.out += data })
      stream.stderr.on('data', (data) => { ran.err += data })
      stream.on('exit', (status) => { ran.status = status })
      stream.on('close', () => resolve(ran))
      stream.end(input)
    })
  })
}

async function copy(client) {
  const sftp = await promisify(client.sftp).call(client)
  await promisify(sftp.fastPut).call(sftp, local, 'from-node')
  await promisify(sftp.fastGet).call(sftp, 'from-node', back)
  sftp.end()
}

const client = new Client()
client.on('keyboard-interactive', (name, instructions, language, prompts, finish) => {
  process.stderr.write(`${instructions}\n`)
  finish(prompts.map(() => ''))
})
client.on('error', (error) => {
  process.stderr.write(`${error.message}\n`)
  process.exitCode = 1
})
client.on('ready', async () => {
  const [ran] = await Promise.all([run(client, 'cat; echo oops >&2; exit 4', 'typed'), copy(client)])
  process.stdout.write(JSON.stringify(ran))
  client.end()
})
client.connect({
  host: '127.0.0.1',
  port: Number(port),
  username,
  tryKeyboard: true,
  readyTimeout: 60_000,
  hostVerifier: (key) => key.toString('base64') === hostKey,
})
