// Package agent runs the collectors of a host and ships what they find: metrics as remote write 2.0, logs as OTLP.
//
// Every batch goes to a spool on disk and is synced there before it is sent, with a name of its own; the positions of files and
// journal stand in the same record. So a line is either in the spool with its position or it is read again, and a batch that is sent twice,
// because an answer was lost or the agent died, has the same name both times and counts once.
//
// While the server is away the spool grows up to its limit. Then the oldest metrics are dropped and counted, and logs are not read
// any further: their files are the buffer. When the server is back everything goes out in order.
//
// Options.Collect lets others hand over metrics: what scrapes targets has dependencies that this package does not want.
//
// The agent knows the server by the Sink interface only: over HTTP, or in the same process.
package agent
