package listen

import "bytes"

// Framing cuts what a connection sends into frames. It belongs to one connection.
type Framing interface {
	// Next looks for a frame at the begin of data, which are the bytes that have come and that no frame has taken. full says that no more of them can
	// be held, so that some must be taken.
	Next(data []byte, full bool) Frame
	// Last is what a connection ends with, or nil if that is nothing to take.
	Last(data []byte) []byte
}

// Frame is what Next has found.
type Frame struct {
	Bytes []byte // without what frames it
	Taken int    // how many bytes of the data are done with
	Whole bool   // Bytes are a frame, which may be empty; otherwise, if nothing is taken either, more bytes are needed
	Long  bool   // a frame began that is longer than the limit, and was left out or cut
}

// lines cuts at line breaks. Lines that are too long are left out.
type lines struct {
	skipping bool // the rest of a line that was too long
}

func (f *lines) Next(data []byte, full bool) Frame {
	i := bytes.IndexByte(data, '\n')
	switch {
	case i >= 0 && f.skipping:
		f.skipping = false
		return Frame{Taken: i + 1}
	case i >= 0:
		return Frame{Bytes: bytes.TrimSuffix(data[:i], []byte("\r")), Taken: i + 1, Whole: true}
	case full:
		long := !f.skipping
		f.skipping = true
		return Frame{Taken: len(data), Long: long}
	}
	return Frame{}
}

func (f *lines) Last(data []byte) []byte {
	if f.skipping {
		return nil
	}
	return bytes.TrimSuffix(data, []byte("\r"))
}
