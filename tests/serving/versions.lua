-- Asks for recommendations without a pause and counts what comes back, by status and by the version that answered;
-- wrk runs it. The last line of its output is one JSON object.

local body = '{"history":[{"item_id":"item-01","event_time":"2026-01-01T00:00:00Z"}],"k":3}'
local threads = {}

function setup(thread)
  table.insert(threads, thread)
end

function init(arguments)
  seen = ""
  refused = 0
end

function request()
  return wrk.format("POST", nil, nil, body)
end

function delay()
  return 2
end

function response(status, headers, answer)
  if status ~= 200 then
    refused = refused + 1
    return
  end
  local version = answer:match('"model_version":"([^"]*)"') or "none"
  if seen:sub(-#version) ~= version then -- not on another answer of the same: the order of changes is what matters
    seen = seen .. (seen == "" and "" or " ") .. version
  end
end

function done(summary, latency, requests)
  local refused, seen = 0, {}
  for _, thread in ipairs(threads) do
    refused = refused + thread:get("refused")
    table.insert(seen, '"' .. thread:get("seen") .. '"')
  end
  local errors = summary.errors
  io.write(string.format(
    '\n{"answered":%d,"refused":%d,"broken":%d,"late":%d,"seen":[%s]}\n',
    summary.requests, refused, errors.connect + errors.read + errors.write, errors.timeout, table.concat(seen, ",")))
end
