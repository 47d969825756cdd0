-- Posts a body for one user after another and counts what comes back; wrk runs it, once in each of its threads.
-- Arguments: how many users there are, the first one's number, k, and the text that a good answer holds.
-- The last line of its output is one JSON object, which benchmarks/_load.py reads.

local threads = {}

function setup(thread)
  table.insert(threads, thread)
end

function init(arguments)
  users, at, k, wanted = tonumber(arguments[1]), tonumber(arguments[2]), tonumber(arguments[3]), arguments[4]
  refused, other = 0, 0
end

function request()
  local body = string.format('{"user_id":"u%06d","k":%d}', at % users, k)
  at = at + 1
  return wrk.format("POST", nil, nil, body)
end

function response(status, headers, body)
  if status ~= 200 then
    refused = refused + 1
  elseif not string.find(body, wanted, 1, true) then
    other = other + 1
  end
end

function done(summary, latency, requests)
  local refused, other = 0, 0
  for _, thread in ipairs(threads) do
    refused, other = refused + thread:get("refused"), other + thread:get("other")
  end
  local errors = summary.errors
  io.write(string.format(
    '\n{"requests":%d,"seconds":%.6f,"p50_ms":%.3f,"p99_ms":%.3f,"refused":%d,"other":%d,"broken":%d,"late":%d}\n',
    summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
    refused, other, errors.connect + errors.read + errors.write, errors.timeout))
end
