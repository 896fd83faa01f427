// Writes what TA-Lib makes of sp500.csv: node features_talib.mjs ../../datasets/data/sp500.csv > features_talib.csv
// README.md beside this file tells of which version.
import { readFileSync } from "node:fs";
import Module, { createRequire } from "node:module";

// The package takes the index after the last bar for the last one, reads numbers from memory that it has freed, and does
// not tell which bar is the first that TA-Lib has a number for: all three are put right here.
function load() {
  const path = createRequire(process.cwd() + "/").resolve("talib-web");
  const replace = (source, before, after) => {
    if (!source.includes(before)) throw new Error(`${path}: expected ${before}`);
    return source.replaceAll(before, after);
  };
  let source = readFileSync(path, "utf8");
  source = replace(source, "endIdx = Math.min(...reqParamsLen)", "endIdx = Math.min(...reqParamsLen) - 1");
  source = replace(source, "cArray(TA_WASM, endIdx - startIdx)", "cArray(TA_WASM, endIdx - startIdx + 1)");
  source = source.replace(/argsToCcall\.push\(0\);\s*argsToCcall\.push\(0\);/, `
    const range = cArray(TA_WASM, 1);
    argsToCcall.push(range.offset, range.offset + 4);`);
  source = replace(source, "Array.from(current.array.data)", `(() => {
    const [begin, count] = new Int32Array(range.data.buffer, range.offset, 2);
    return [...Array(begin).fill(NaN), ...Array.from(current.array.data).slice(0, count)];
  })()`);
  const free = "arraysToRelease.forEach((arr) => TA_WASM._free(arr.offset));";
  source = replace(source, free, "");
  source = replace(source, "if (retCode === 0) {", `${free} if (retCode === 0) {`);
  const module = new Module(path);
  module.filename = path;
  module._compile(source, path);
  return module.exports;
}

delete globalThis.fetch; // for which the package takes the path of its file for a URL
const talib = load();
await talib.init();

const lines = readFileSync(process.argv[2], "utf8").trim().split("\n");
const header = lines[0].split(",");
const bars = lines.slice(1).map((line) => line.split(","));
const column = (name) => bars.map((bar) => Number(bar[header.indexOf(name)]));
const [high, low, close, volume] = ["high", "low", "close", "volume"].map(column);

const divide = (a, b) => a.map((value, t) => value / b[t]);

const sma20 = talib.SMA({ inReal: close, timePeriod: 20 }).output;
const deviation20 = talib.STDDEV({ inReal: close, timePeriod: 20, nbDev: 1 }).output;
const logClose = talib.LN({ inReal: close }).output;
const logReturns = talib.MOM({ inReal: logClose, timePeriod: 1 }).output;
const volatility = talib.STDDEV({ inReal: logReturns.slice(1), timePeriod: 20, nbDev: 1 }).output;
const typical = talib.TYPPRICE({ high, low, close }).output;
const paid = talib.SUM({ inReal: talib.MULT({ inReal0: typical, inReal1: volume }).output, timePeriod: 20 }).output;
const traded = talib.SUM({ inReal: volume, timePeriod: 20 }).output;
const macd = talib.MACD({ inReal: close, fastPeriod: 12, slowPeriod: 26, signalPeriod: 9 });
const bands = talib.BBANDS({ inReal: close, timePeriod: 20, nbDevUp: 2, nbDevDn: 2, MAType: 0 });
const averages = { slowK_MAType: 0, slowD_MAType: 0 };
const slow = talib.STOCH({ high, low, close, fastK_Period: 5, slowK_Period: 3, slowD_Period: 3, ...averages });
const fast = talib.STOCHF({ high, low, close, fastK_Period: 14, fastD_Period: 3, fastD_MAType: 0 });
const named = (object, ...parts) => {
  const key = Object.keys(object).find((name) => parts.some((part) => name.toLowerCase().includes(part)));
  if (key === undefined) throw new Error(`no ${parts} in ${Object.keys(object)}`);
  return object[key];
};

const columns = {
  return_5: talib.ROCP({ inReal: close, timePeriod: 5 }).output,
  log_return: logReturns,
  sma_20: sma20,
  ema_20: talib.EMA({ inReal: close, timePeriod: 20 }).output,
  rsi_14: talib.RSI({ inReal: close, timePeriod: 14 }).output,
  macd_12_26_9: macd.MACD,
  macd_12_26_9_signal: named(macd, "signal"),
  macd_12_26_9_histogram: named(macd, "hist"),
  bollinger_20_2_upper: named(bands, "upper"),
  bollinger_20_2_middle: named(bands, "middle"),
  bollinger_20_2_lower: named(bands, "lower"),
  atr_14: talib.ATR({ high, low, close, timePeriod: 14 }).output,
  obv: talib.OBV({ inReal: close, volume }).output,
  vwap_20: divide(paid, traded),
  stochastic_5_3_3_k: named(slow, "slowk"),
  stochastic_5_3_3_d: named(slow, "slowd"),
  stochastic_14_1_3_k: named(fast, "fastk"),
  stochastic_14_1_3_d: named(fast, "fastd"),
  volatility_20: [NaN, ...volatility],
  zscore_20: close.map((value, t) => (value - sma20[t]) / deviation20[t]),
};

// The warm-up, then a bar now and then to the end.
const rows = bars.map((_, t) => t).filter((t) => t < 45 || t % 311 === 0 || t === bars.length - 1);
console.log(["bar", ...Object.keys(columns)].join(","));
for (const t of rows) {
  console.log([t, ...Object.values(columns).map((values) => (Number.isNaN(values[t]) ? "" : values[t]))].join(","));
}
