package pattern

import (
	"strconv"

	"kemi"
)

// A template is the text of a line with marks where it varies. A line with control bytes below 9 has none, so that marks cannot be mistaken.
const (
	markWord  = 0x01 // a word: a run of ASCII letters, digits and underscores
	markUUID  = 0x02 // 8-4-4-4-12 lower-case hexadecimal digits
	markIPv4  = 0x03 // four numbers up to 255
	markStamp = 0x04 // a stamp, with its layout behind
	markLine  = 0x05 // the whole line
	maxMark   = markLine
)

// slotKind is what stands at a mark.
type slotKind uint8

const (
	slotWord slotKind = iota
	slotUUID
	slotIPv4
	slotStamp
	slotLine
)

// The kinds of bytes that words are made of.
const (
	letter    = 1 + iota // also the underscore
	hexLetter            // a to f
	digitChar
)

var charKind = func() (t [256]uint8) {
	for c := range 256 {
		switch {
		case c >= '0' && c <= '9':
			t[c] = digitChar
		case c >= 'a' && c <= 'f':
			t[c] = hexLetter
		case c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c == '_':
			t[c] = letter
		}
	}
	return t
}()

// span is what varies in a line.
type span struct {
	from, to int
	kind     slotKind
	value    int64 // of a stamp
}

// splitter cuts lines into template and spans. What it gives is valid until the next line.
type splitter struct {
	key   []byte
	spans []span
}

// maxSpans is how many places of a line may vary; lines with more, or longer than maxLine, are kept whole.
const (
	maxSpans = 200
	maxLine  = 64 << 10
)

// split cuts a line of a record of that time; false if it has to be kept whole.
func (s *splitter) split(line string, at kemi.Nanos) bool {
	s.key, s.spans = s.key[:0], s.spans[:0]
	if len(line) > maxLine {
		return false
	}
	static := 0 // where the fixed text that is not in the key yet begins
	for i := 0; i < len(line); {
		c := line[i]
		if charKind[c] == 0 {
			if c < 9 {
				return false
			}
			i++
			continue
		}
		from := i
		// A stamp, an address or a UUID may begin here.
		if charKind[c] == digitChar {
			if i+8 <= len(line) {
				if l, end, v, ok := findStamp(line, i, at); ok {
					s.key = l.put(append(s.key, line[static:from]...))
					s.spans = append(s.spans, span{from, end, slotStamp, v})
					i, static = end, end
					continue
				}
				if end := ipv4End(line, i); end > 0 {
					s.key = append(append(s.key, line[static:from]...), markIPv4)
					s.spans = append(s.spans, span{from: from, to: end, kind: slotIPv4})
					i, static = end, end
					continue
				}
			}
		} else if i+15 <= len(line) && line[i+3] == ' ' && c <= 'S' {
			if l, end, v, ok := findStamp(line, i, at); ok {
				s.key = l.put(append(s.key, line[static:from]...))
				s.spans = append(s.spans, span{from, end, slotStamp, v})
				i, static = end, end
				continue
			}
		}
		digit, hex := false, true
		for ; i < len(line); i++ {
			k := charKind[line[i]]
			if k == 0 {
				break
			}
			digit = digit || k == digitChar
			hex = hex && k != letter
		}
		n := i - from
		if hex && n == 8 && i < len(line) && line[i] == '-' && i+28 <= len(line) && isUUID(line[from:i+28]) && (i+28 == len(line) || charKind[line[i+28]] == 0) {
			i += 28
			s.key = append(append(s.key, line[static:from]...), markUUID)
			s.spans = append(s.spans, span{from: from, to: i, kind: slotUUID})
			static = i
			continue
		}
		if digit || hex && n >= 8 {
			s.key = append(append(s.key, line[static:from]...), markWord)
			s.spans = append(s.spans, span{from: from, to: i})
			static = i
		}
		if len(s.spans) > maxSpans {
			return false
		}
	}
	s.key = append(s.key, line[static:]...)
	return true
}

func isUUID(s string) bool {
	for i := range 36 {
		switch c := s[i]; {
		case i == 8 || i == 13 || i == 18 || i == 23:
			if c != '-' {
				return false
			}
		case (c < '0' || c > '9') && (c < 'a' || c > 'f'):
			return false
		}
	}
	return true
}

// ipv4End is where the address ends that begins at line[i], or 0 if there is none: four numbers up to 255 without zeros before them, and neither a word nor a fifth
// number behind.
func ipv4End(line string, i int) int {
	for part := 0; ; part++ {
		n, j := 0, i
		for ; j < len(line) && j-i < 4 && line[j]-'0' <= 9; j++ {
			n = n*10 + int(line[j]-'0')
		}
		if j == i || j-i > 3 || n > 255 || line[i] == '0' && j-i > 1 {
			return 0
		}
		if part == 3 {
			if j < len(line) && (charKind[line[j]] != 0 || line[j] == '.' && j+1 < len(line) && line[j+1]-'0' <= 9) {
				return 0
			}
			return j
		}
		if j >= len(line) || line[j] != '.' {
			return 0
		}
		i = j + 1
	}
}

func appendInt(b []byte, n int64) []byte { return strconv.AppendInt(b, n, 10) }
