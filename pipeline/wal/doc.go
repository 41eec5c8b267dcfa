// Package wal is the log of record on local disk: the embedded bus.Bus.
//
// Each partition is a chain of segment files that only ever grow at the end. Publish encodes its records into one frame
// per partition, hands it to the partition's only writer and returns after that writer has written and synced it. While
// one sync is under way the next frames gather, and go to disk together with one sync more; so an idle log costs a
// publisher exactly one sync, and a busy one shares it among all who wait.
//
// What was acknowledged is never given up silently. On Open the end of the last segment is checked frame by frame: an
// unfinished write is cut off, but damage to what had been synced is told as an error, with file and position (each
// frame says how much of its file was durable when it was written, which is how the two are told apart).
//
// Readers that are close behind get the frames from memory, the others from disk. Nothing that is not durable is ever
// handed to a reader. docs/formats/bus-log.md has the bytes.
//
// It does not compress, replicate, or index what is in the records.
package wal
