// Package tail follows log files. Every line is handed out once and in order, whatever happens to the file: it is renamed and a new one
// takes its place, it is copied and truncated, deleted, written again, or the agent is stopped and started.
//
// Which file it is says its device and inode, checked by a hash of its first bytes; how far it was read says an offset,
// checked by a hash of the last bytes before it. So a file that was truncated and has grown past the old offset is noticed, an inode
// that was used again too, and the copy that copytruncate makes is read from where its original stood.
//
// The one idea: nothing is kept that cannot be read again. A line that is not whole yet is not read; each entry that is handed out
// carries the position after it, and the caller keeps that position together with the line. The caller takes entries when it
// can; until then nothing is read, and the files themselves are the buffer.
//
// It does not parse lines: what they say of time and severity is for the receiver to find. It does not keep positions either.
package tail
