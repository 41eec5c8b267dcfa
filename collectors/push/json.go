package push

import (
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
	"unsafe"

	"kemi"
)

// jsonReader reads JSON from a text without building a tree: strings without escapes are parts of the text. It takes control characters
// and bytes that are not UTF-8 in strings as they are, since that is what log lines are made of.
type jsonReader struct {
	s   string
	i   int
	buf []byte
}

// maxJSONDepth is how deep objects and arrays may lie within each other.
const maxJSONDepth = 64

func (j *jsonReader) errorf(format string, args ...any) error {
	if j.i >= len(j.s) {
		return kemi.Errorf(kemi.ErrInvalid, "broken JSON: it ends too early, at byte %d", len(j.s))
	}
	args = append(args, j.i, quote(j.s[j.i:min(len(j.s), j.i+16)]))
	return kemi.Errorf(kemi.ErrInvalid, "broken JSON: "+format+" at byte %d, not %s", args...)
}

// peek is the next byte that is no space, or 0 at the end.
func (j *jsonReader) peek() byte {
	for j.i < len(j.s) {
		switch c := j.s[j.i]; c {
		case ' ', '\t', '\n', '\r':
			j.i++
		default:
			return c
		}
	}
	return 0
}

// more tells whether there is anything but space left.
func (j *jsonReader) more() bool {
	j.peek()
	return j.i < len(j.s)
}

// expect reads the byte c.
func (j *jsonReader) expect(c byte) error {
	if j.peek() != c || j.i >= len(j.s) {
		return j.errorf("expected '%c'", c)
	}
	j.i++
	return nil
}

// shortString is up to where a string is searched byte by byte for its end: most are names, levels and the like.
const shortString = 24

// str reads a string.
func (j *jsonReader) str() (string, error) {
	if err := j.expect('"'); err != nil {
		return "", err
	}
	rest := j.s[j.i:]
	for i := range min(len(rest), shortString) {
		switch rest[i] {
		case '"':
			j.i += i + 1
			return rest[:i], nil
		case '\\':
			return j.escaped(i)
		}
	}
	end := strings.IndexByte(rest, '"')
	if end < 0 {
		j.i = len(j.s)
		return "", j.errorf("")
	}
	if esc := strings.IndexByte(rest[:end], '\\'); esc >= 0 {
		return j.escaped(esc)
	}
	j.i += end + 1
	return rest[:end], nil
}

// roomFor is how many bytes there are at least for what strings with escapes become: they are cut from one allocation.
const roomFor = 4 << 10

// escaped reads the rest of a string of which the first n bytes have no escapes.
func (j *jsonReader) escaped(n int) (string, error) {
	if cap(j.buf)-len(j.buf) < roomFor {
		j.buf = make([]byte, 0, 4*roomFor)
	}
	begin := len(j.buf)
	b := j.buf
	for s := j.s; ; {
		from := j.i
		i := from + n
		n = 0
		for i < len(s) && s[i] != '"' && s[i] != '\\' {
			i++
		}
		b = append(b, s[from:i]...)
		j.i = i
		if i+1 >= len(s) && (i == len(s) || s[i] == '\\') {
			j.i = len(s)
			return "", j.errorf("")
		}
		if s[i] == '"' {
			j.i++
			j.buf = b
			text := b[begin:]
			return unsafe.String(unsafe.SliceData(text), len(text)), nil // what follows is appended behind it
		}
		switch c := s[i+1]; c {
		case '"', '\\', '/':
			b = append(b, c)
		case 'n':
			b = append(b, '\n')
		case 't':
			b = append(b, '\t')
		case 'r':
			b = append(b, '\r')
		case 'b':
			b = append(b, '\b')
		case 'f':
			b = append(b, '\f')
		case 'u':
			r, n := unescape(s[i:])
			if n == 0 {
				return "", j.errorf("expected four hexadecimal digits after \\u")
			}
			b = utf8.AppendRune(b, r)
			j.i += n - 2
		default:
			return "", j.errorf("expected one of \\\" \\\\ \\/ \\b \\f \\n \\r \\t \\u")
		}
		j.i += 2
	}
}

// unescape reads \uXXXX, or two of them if they are a pair of surrogates, and how many bytes that takes.
func unescape(s string) (rune, int) {
	hex := func(s string) (rune, bool) {
		if len(s) < 6 || s[0] != '\\' || s[1] != 'u' {
			return 0, false
		}
		n, err := strconv.ParseUint(s[2:6], 16, 16)
		return rune(n), err == nil
	}
	r, ok := hex(s)
	if !ok {
		return 0, 0
	}
	if utf16.IsSurrogate(r) {
		if low, ok := hex(s[6:]); ok {
			if both := utf16.DecodeRune(r, low); both != utf8.RuneError {
				return both, 12
			}
		}
		return utf8.RuneError, 6
	}
	return r, 6
}

// skip reads any value and gives it as it is written.
func (j *jsonReader) skip(depth int) (string, error) {
	if depth > maxJSONDepth {
		return "", kemi.Errorf(kemi.ErrInvalid, "JSON more than %d levels deep", maxJSONDepth)
	}
	c := j.peek()
	begin := j.i
	switch {
	case c == '"':
		if _, err := j.str(); err != nil {
			return "", err
		}
	case c == '{':
		err := j.object(func(string) error {
			_, err := j.skip(depth + 1)
			return err
		})
		if err != nil {
			return "", err
		}
	case c == '[':
		err := j.array(func() error {
			_, err := j.skip(depth + 1)
			return err
		})
		if err != nil {
			return "", err
		}
	default:
		return j.literal()
	}
	return j.s[begin:j.i], nil
}

// literal reads a number, true, false or null.
func (j *jsonReader) literal() (string, error) {
	j.peek()
	rest := j.s[j.i:]
	for _, word := range [...]string{"true", "false", "null"} {
		if strings.HasPrefix(rest, word) {
			j.i += len(word)
			return word, nil
		}
	}
	n := 0
	digits := func() bool {
		from := n
		for n < len(rest) && rest[n] >= '0' && rest[n] <= '9' {
			n++
		}
		return n > from
	}
	if n < len(rest) && rest[n] == '-' {
		n++
	}
	ok := digits()
	if ok && n < len(rest) && rest[n] == '.' {
		n++
		ok = digits()
	}
	if ok && n < len(rest) && rest[n]|0x20 == 'e' {
		if n++; n < len(rest) && (rest[n] == '+' || rest[n] == '-') {
			n++
		}
		ok = digits()
	}
	if !ok {
		return "", j.errorf("expected a value")
	}
	j.i += n
	return rest[:n], nil
}

// object reads an object; member reads each value.
func (j *jsonReader) object(member func(name string) error) error {
	if err := j.expect('{'); err != nil {
		return err
	}
	if j.peek() == '}' {
		j.i++
		return nil
	}
	for {
		j.peek()
		name, err := j.str()
		if err != nil {
			return err
		}
		if err := j.expect(':'); err != nil {
			return err
		}
		if err := member(name); err != nil {
			return err
		}
		if j.peek() == ',' {
			j.i++
			continue
		}
		return j.expect('}')
	}
}

// array reads an array; element reads each value.
func (j *jsonReader) array(element func() error) error {
	if err := j.expect('['); err != nil {
		return err
	}
	if j.peek() == ']' {
		j.i++
		return nil
	}
	for {
		if err := element(); err != nil {
			return err
		}
		if j.peek() == ',' {
			j.i++
			continue
		}
		return j.expect(']')
	}
}

// text reads a value as text: strings without their quotes, null as nothing, all else as it is written.
func (j *jsonReader) text(depth int) (string, error) {
	switch j.peek() {
	case '"':
		return j.str()
	case '{', '[':
		return j.skip(depth)
	}
	v, err := j.literal()
	if v == "null" {
		v = ""
	}
	return v, err
}

// isNull tells whether the next value is null.
func (j *jsonReader) isNull() bool { return j.peek() == 'n' }
