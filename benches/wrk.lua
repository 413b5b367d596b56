-- Sends the webhooks of a file, round and round; each thread begins at another place. Arguments: the file
-- (lines of id, signature and body, separated by tabs) and the event type.

local threads = 0

function setup(thread)
   thread:set("number", threads)
   threads = threads + 1
end

function init(args)
   requests = {}
   for line in io.lines(args[1]) do
      local id, signature, body = line:match("^([^\t]+)\t([^\t]+)\t(.+)$")
      requests[#requests + 1] = wrk.format("POST", nil, {
         ["Content-Type"] = "application/json",
         ["User-Agent"] = "GitHub-Hookshot/0000000",
         ["X-GitHub-Delivery"] = id,
         ["X-GitHub-Event"] = args[2],
         ["X-Hub-Signature-256"] = signature,
      }, body)
   end
   count = #requests
   place = math.floor(number * count / 7) % count
end

function request()
   place = place % count + 1
   return requests[place]
end

-- `status` counts what is 400 or above; ingest answers nothing between 200 and that.
function done(summary, latency)
   local e = summary.errors
   io.write(string.format(
      'figures {"requests":%d,"duration_us":%d,"p50_us":%d,"p99_us":%d,"errors":%d}\n',
      summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
      e.connect + e.read + e.write + e.status + e.timeout))
end
