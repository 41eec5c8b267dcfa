// Package head is the live store of metrics: what has not been settled yet, searchable at once.
//
// A series is a few words in a slab: its newest samples lie in a buffer without pointers, thirty-two at a time are packed and appended to a chunk
// file, each record of which says where the one before of the same series lies. So memory is small and the collector has nothing to look at. Samples
// that are older than the newest of their series go to a lane beside it.
//
// The log of record is the truth. A checkpoint now and then has the state of all series and the positions in the log from which on it
// may be repeated; after a crash of any kind the newest one is loaded and the log replayed (decision 0032). The batch layer
// takes over what is old enough: Sources, Read, Retire.
package head
