package syslog

import (
	"bytes"

	"kemi/collectors/listen"
)

// framing is how a connection is cut, after RFC 6587: by octet counting (`17 <13>1 - - - - - -`) or at line breaks. The first bytes of a connection say which.
// What is longer than the limit comes in parts.
type framing struct {
	max     int
	counted bool // octet counting
	known   bool

	left    int  // bytes of a counted frame that is under way in parts
	within  bool // a line is under way in parts
	part    int  // which part of a frame comes next, from 1 on; 0: all of it
	partial bool // the connection ended within what comes next
}

// Next looks for a frame.
func (f *framing) Next(data []byte, full bool) listen.Frame {
	if !f.known && !f.detect(data, full) {
		return listen.Frame{}
	}
	if !f.counted {
		return f.line(data, full)
	}
	if f.left == 0 {
		return f.octets(data, full)
	}
	n := min(f.left, f.max)
	if len(data) < n {
		return listen.Frame{}
	}
	f.left -= n
	f.part++
	return listen.Frame{Bytes: data[:n], Taken: n, Whole: true}
}

func (f *framing) detect(data []byte, full bool) bool {
	n, head, ok := count(data)
	if ok && head == len(data) && !full {
		return false // nothing, or a number so far
	}
	f.known, f.counted = true, n > 0 && head < len(data) && data[head] == '<'
	return true
}

// maxCount is how many bytes the number of a counted frame takes with its space.
const maxCount = 10

// count reads the number that a counted frame begins with, and how many bytes it takes with the space behind it. ok tells whether it is one, or is
// one as far as it goes.
func count(data []byte) (n, head int, ok bool) {
	for i, c := range data {
		if c == ' ' && i > 0 {
			return n, i + 1, true
		}
		if c < '0' || c > '9' || i == 0 && c == '0' || i >= maxCount-1 {
			return 0, 0, false
		}
		n = n*10 + int(c-'0')
	}
	return n, len(data), true
}

func (f *framing) octets(data []byte, full bool) listen.Frame {
	n, head, ok := count(data)
	switch {
	case len(data) == 0:
		return listen.Frame{}
	case data[0] == '\n' && !f.within: // some senders have both
		return listen.Frame{Taken: 1}
	case !ok || f.within:
		return f.line(data, full) // what is no frame is kept, up to the line break behind which one may begin
	case data[head-1] != ' ':
		return listen.Frame{}
	case n > f.max-maxCount: // so that it fits with its number
		end := head + f.max - maxCount
		if len(data) < end {
			return listen.Frame{}
		}
		f.left, f.part = n-(f.max-maxCount), 1
		return listen.Frame{Bytes: data[head:end], Taken: end, Whole: true, Long: true}
	case len(data) < head+n:
		return listen.Frame{}
	}
	f.part = 0
	return listen.Frame{Bytes: data[head : head+n], Taken: head + n, Whole: true}
}

func (f *framing) line(data []byte, full bool) listen.Frame {
	i := bytes.IndexByte(data, '\n')
	long := i < 0 && full || i > f.max
	if i < 0 && !long {
		return listen.Frame{}
	}
	switch {
	case f.within:
		f.part++
	case long:
		f.part = 1
	default:
		f.part = 0
	}
	first := long && !f.within
	if f.within = long; long {
		return listen.Frame{Bytes: data[:f.max], Taken: f.max, Whole: true, Long: first}
	}
	return listen.Frame{Bytes: data[:i], Taken: i + 1, Whole: true}
}

// Last is a frame that the connection's end has cut short, or a line without its break.
func (f *framing) Last(data []byte) []byte {
	f.partial = f.counted
	if f.left > 0 || f.within {
		f.part++
		return data
	}
	f.part = 0
	if _, head, ok := count(data); f.counted && ok {
		return data[head:]
	}
	return data
}
