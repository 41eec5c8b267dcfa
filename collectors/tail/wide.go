package tail

import (
	"bytes"
	"unicode/utf16"
	"unicode/utf8"
)

// wide is the order of bytes of a file in UTF-16, or notWide.
type wide uint8

const (
	notWide wide = iota
	littleEndian
	bigEndian
)

// encodings are what Config.Encoding may say. "" is UTF-8, or what a byte order mark says.
var encodings = map[string]wide{"": notWide, "utf-8": notWide, "utf-16le": littleEndian, "utf-16be": bigEndian}

// learnEncoding finds out how the file is encoded, if that is not known yet and can be.
func (f *file) learnEncoding() {
	if f.encodingKnown {
		return
	}
	if f.in.Encoding != "" {
		f.wide, f.encodingKnown = encodings[f.in.Encoding], true
		return
	}
	var mark [2]byte
	if n, _ := f.fd.ReadAt(mark[:], 0); n < len(mark) {
		return // one byte is no line either
	}
	f.encodingKnown = true
	switch mark {
	case [2]byte{0xff, 0xfe}:
		f.wide = littleEndian
	case [2]byte{0xfe, 0xff}:
		f.wide = bigEndian
	default:
		f.wide = notWide
	}
}

// lineEnd is how many bytes of b are its first line with its end, or 0 if that is not there. b begins with a whole character.
func (w wide) lineEnd(b []byte) int {
	if w == notWide {
		return bytes.IndexByte(b, '\n') + 1
	}
	for from := 0; ; {
		i := bytes.IndexByte(b[from:], '\n')
		if i < 0 {
			return 0
		}
		at := from + i
		unit := at &^ 1
		if unit+2 > len(b) {
			return 0
		}
		if w.unit(b[unit:]) == '\n' {
			return unit + 2
		}
		from = unit + 2
	}
}

func (w wide) unit(b []byte) uint16 {
	if w == bigEndian {
		return uint16(b[0])<<8 | uint16(b[1])
	}
	return uint16(b[1])<<8 | uint16(b[0])
}

// plain is b in UTF-8. Halves of pairs without their other half stay what they are, in the three bytes that they would take.
func (w wide) plain(b []byte) []byte {
	if w == notWide {
		return b
	}
	out := make([]byte, 0, len(b))
	for ; len(b) >= 2; b = b[2:] {
		r := rune(w.unit(b))
		if utf16.IsSurrogate(r) && len(b) >= 4 {
			if both := utf16.DecodeRune(r, rune(w.unit(b[2:]))); both != utf8.RuneError {
				out = utf8.AppendRune(out, both)
				b = b[2:]
				continue
			}
		}
		if utf16.IsSurrogate(r) {
			out = append(out, 0xe0|byte(r>>12), 0x80|byte(r>>6)&0xbf, 0x80|byte(r)&0xbf)
			continue
		}
		out = utf8.AppendRune(out, r)
	}
	return out
}

// cutAt is where a line that is too long is cut: at most at MaxLine, and not within a character.
func (w wide) cutAt(b []byte) int {
	if w == notWide {
		return cutAt(b)
	}
	n := MaxLine &^ 1
	if u := w.unit(b[n-2:]); u >= 0xd800 && u < 0xdc00 {
		n -= 2
	}
	return n
}
