// Package backfill sends files of samples to a server: OpenMetrics and Prometheus' text as promtool reads and writes them, and lines of OpenTSDB's
// put. Files may be larger than any memory.
//
// A file is read once, line by line. Its samples are gathered by series into bodies of remote write, which a few senders bring to the server at the
// same time; all samples of one series go through one sender, so that they arrive in the order of the file. To send a file again changes
// nothing, and what is durable is known by its place in the file, so that what broke off can go on from there.
package backfill
