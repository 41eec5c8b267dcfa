package tail

import (
	"bytes"
	"unicode/utf8"
)

// MaxLine is how long a record can be; a longer line is handed out in parts.
const MaxLine = 1 << 20

// frame is the next record in data, which begins at one.
type frame struct {
	n    int  // how much of data it takes
	cut  bool // it ends here although its line does not: it is too long
	ok   bool // there is one; otherwise more data are needed
	held bool // there are data that are not a whole record yet
}

// next finds the next record. whole says that data go to the end of the file; flush that what is not a whole record counts as
// one, as nothing was added for long.
func (in *input) next(data []byte, w wide, flush bool) frame {
	if len(data) == 0 {
		return frame{}
	}
	if in.Format == formatContainer {
		return in.nextPrinted(data, flush)
	}
	n := w.lineEnd(data[:min(len(data), MaxLine+1)])
	if n == 0 {
		if len(data) > MaxLine {
			return frame{n: w.cutAt(data), cut: true, ok: true}
		}
		n = len(data)
		if w != notWide {
			n &^= 1
		}
		return frame{n: n, ok: flush && n > 0, held: true}
	}
	if in.join == nil {
		return frame{n: n, ok: true}
	}
	// More lines belong to it until one that begins the next record.
	for lines := 1; lines < in.maxLines; lines++ {
		m := w.lineEnd(data[n:])
		rest := data[n : n+m]
		if m == 0 {
			// The line is not whole; but what begins the next record may show already.
			rest = data[n:]
			if w != notWide {
				rest = rest[:len(rest)&^1]
			}
			if len(rest) == 0 || !flush && len(data) <= MaxLine {
				return frame{n: n, ok: flush, held: true}
			}
		}
		if in.join.begins(bytes.TrimRight(w.plain(rest), "\r\n")) || n+len(rest) > MaxLine {
			return frame{n: n, ok: true}
		}
		n += len(rest)
		if m == 0 {
			break
		}
	}
	return frame{n: n, ok: true}
}

// cutAt is where a line that is too long is cut: at most at MaxLine, and not within a rune.
func cutAt(data []byte) int {
	n := MaxLine
	for i := n; i > n-utf8.UTFMax; i-- {
		if utf8.RuneStart(data[i]) {
			return i
		}
	}
	return n
}

var byteOrderMark = []byte("\xef\xbb\xbf")

// text is a record without its end of line.
func text(b []byte) []byte {
	if n := len(b); n > 0 && b[n-1] == '\n' {
		b = b[:n-1]
		if n > 1 && b[n-2] == '\r' {
			b = b[:n-2]
		}
	}
	return b
}
