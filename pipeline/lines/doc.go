// Package lines is the embedded log store: store.LogStore on blocks of package pattern.
//
// New records lie in memory (the head), where questions scan them. When there are enough, or after some seconds, they become blocks, one or more of each project, and are
// written as a part: a file that never changes, with the position in the log of record up to which all is in parts. The log of record is the write-ahead log; this
// package has none. So a crash loses nothing that replay from Positions does not bring again, and brings nothing twice.
//
// Parts are merged in the background, so that there are few; small blocks are coded again together, full ones are copied as they are. Retention and deletion write
// the parts that they touch anew. Whatever replaces parts names them in its footer: after a crash between the two only one side counts.
package lines
