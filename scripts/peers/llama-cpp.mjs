// One measurement of node-llama-cpp's prebuilt llama.cpp, as a JSON line: prefill and decode tokens a second.
//   node llama-cpp.mjs MODEL.gguf THREADS PROMPT NEW BATCH
// With BATCH > 1 that many sequences generate at once through node-llama-cpp's own batching; decode is their sum.
import { getLlama, LlamaLogLevel } from 'node-llama-cpp';

const [path, threads, prompt, fresh, batch] = [process.argv[2], ...process.argv.slice(3).map(Number)];
const llama = await getLlama({ gpu: false, build: 'never', logLevel: LlamaLogLevel.error, maxThreads: threads });
const model = await llama.loadModel({ modelPath: path, gpuLayers: 0, useMmap: true });
const context = await model.createContext({
  contextSize: prompt + fresh + 64,
  batchSize: Math.max(prompt, 64),
  sequences: batch,
  threads,
  batching: { dispatchSchedule: 'nextCycle', itemPrioritizationStrategy: 'maximumParallelism' },
});
const tokens = Array.from({ length: prompt }, (_, i) => 300 + ((i * 7919) % 30000));
const sequences = Array.from({ length: batch }, () => context.getSequence());

// A warm-up faults the weights in.
await sequences[0].evaluateWithoutGeneratingNewTokens(tokens.slice(0, 32));
await sequences[0].clearHistory();
const begin = performance.now();
await Promise.all(sequences.map((sequence) => sequence.evaluateWithoutGeneratingNewTokens(tokens)));
const prefill = ((prompt * batch) / (performance.now() - begin)) * 1000;

let produced = 0;
const start = performance.now();
await Promise.all(
  sequences.map(async (sequence) => {
    let mine = 0;
    for await (const _ of sequence.evaluate([300], { temperature: 0 })) {
      ++produced;
      if (++mine >= fresh) break;
    }
  }),
);
const decode = (produced / (performance.now() - start)) * 1000;
console.log(JSON.stringify({ prefill, decode }));
process.exit(0);
