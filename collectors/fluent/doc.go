// Package fluent takes Fluentd's forward protocol, version 1, as Fluentd and Fluent Bit speak it: single events, arrays of them, packed and gzipped ones.
//
// An event becomes a log record: its fields mean what they mean in JSON lines, the tag is a label of the stream. A chunk that asks for it is acknowledged
// when the log of record holds it, and not before; sent again under the same name it is the same records. A connection begins with the handshake by a shared key if there is
// one. What follows a message that is not of the protocol cannot be read: the connection ends, and a sender that waits for an acknowledgement sends it again.
package fluent
