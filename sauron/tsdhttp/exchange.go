package tsdhttp

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strings"

	"kemi"
)

// maxBody is the largest request that is read, unpacked.
const maxBody = 4 << 20

const contentType = "application/json; charset=UTF-8"

// Exchange is a request and the way to answer it.
type Exchange struct {
	W      http.ResponseWriter
	R      *http.Request
	ID     kemi.Identity
	Method string // method_override considered
	Params url.Values

	body []byte
	read bool
}

// Last is the last value of a parameter, which is the one that counts, and whether there is any.
func (x *Exchange) Last(name string) (string, bool) {
	v := x.Params[name]
	if len(v) == 0 {
		return "", false
	}
	return v[len(v)-1], true
}

// Get is the last value of a parameter, or "".
func (x *Exchange) Get(name string) string {
	v, _ := x.Last(name)
	return v
}

// Required is the last value of a parameter that may not be empty.
func (x *Exchange) Required(name string) (string, error) {
	v := x.Get(name)
	if v == "" {
		return "", Missing(name)
	}
	return v, nil
}

// Body is the request's, unpacked; empty if there is none.
func (x *Exchange) Body() ([]byte, error) {
	if x.read {
		return x.body, nil
	}
	x.read = true
	raw, err := io.ReadAll(http.MaxBytesReader(x.W, x.R.Body, maxBody))
	if err != nil {
		if len(raw) >= maxBody {
			return nil, tooLarge()
		}
		return nil, kemi.Errorf(kemi.ErrInvalid, "read the request's body: %w", err)
	}
	switch enc := strings.ToLower(x.R.Header.Get("Content-Encoding")); enc {
	case "", "identity":
	case "gzip", "x-gzip":
		z, err := gzip.NewReader(bytes.NewReader(raw))
		if err != nil {
			return nil, kemi.Errorf(kemi.ErrInvalid, "body is not gzip, as Content-Encoding says: %w", err)
		}
		raw, err = io.ReadAll(io.LimitReader(z, maxBody+1))
		switch {
		case err != nil:
			return nil, kemi.Errorf(kemi.ErrInvalid, "body is broken gzip: %w", err)
		case len(raw) > maxBody:
			return nil, tooLarge()
		}
	default:
		return nil, kemi.Errorf(kemi.ErrInvalid, "Content-Encoding %q: must be gzip or none", Clip(enc))
	}
	x.body = raw
	return raw, nil
}

func tooLarge() error {
	return kemi.Errorf(kemi.ErrTooLarge, "the request is larger than %d bytes: send several smaller ones", maxBody)
}

// Object reads the JSON of the body, which has to be there.
func (x *Exchange) Object(into any) error {
	b, err := x.Body()
	if err != nil {
		return err
	}
	return Decode(b, into)
}

// Decode reads the first value of body; what follows it is ignored, as OpenTSDB does.
func Decode(body []byte, into any) error {
	if len(bytes.TrimSpace(body)) == 0 {
		return Bad("Missing message content", "Supply valid JSON formatted data in the body of your request")
	}
	err := json.NewDecoder(bytes.NewReader(body)).Decode(into)
	if err == nil {
		return nil
	}
	return NotJSON(err)
}

// NotJSON tells err of decoding.
func NotJSON(err error) error {
	var told *Error
	if errors.As(err, &told) {
		return told
	}
	var wrong *json.UnmarshalTypeError
	switch {
	case errors.Is(err, io.ErrUnexpectedEOF):
		err = errors.New("it ends in the middle")
	case errors.As(err, &wrong):
		field := wrong.Field
		if field == "" {
			field = "the whole"
		}
		err = errors.New(field + ": a JSON " + wrong.Value + " does not fit")
	}
	return Bad("Unable to parse the given JSON", Clip(err.Error()))
}

// callback is what a function may be called; anything else would be a way to smuggle a script in.
var callback = regexp.MustCompile(`^[A-Za-z_$][A-Za-z0-9_$.]{0,99}$`)

// Padding is the function's name that the answer is to be wrapped in, or "".
func (x *Exchange) Padding() (string, error) {
	name := x.Get("jsonp")
	if name != "" && !callback.MatchString(name) {
		return "", kemi.Errorf(kemi.ErrInvalid, "jsonp: %q: must be the name of a function, of letters, digits, _, $ and dots", Clip(name))
	}
	return name, nil
}

// JSON answers v.
func (x *Exchange) JSON(v any) error { return x.Answer(http.StatusOK, v) }

// Answer answers v with a status.
func (x *Exchange) Answer(status int, v any) error {
	name, err := x.Padding()
	if err != nil {
		return err
	}
	var b bytes.Buffer
	if name != "" {
		b.WriteString(name + "(")
	}
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return err
	}
	b.Truncate(b.Len() - 1)
	if name != "" {
		b.WriteByte(')')
	}
	x.Head(status)
	_, _ = x.W.Write(b.Bytes())
	return nil
}

// Head begins an answer.
func (x *Exchange) Head(status int) {
	h := x.W.Header()
	h.Set("Content-Type", contentType)
	h.Set("X-Content-Type-Options", "nosniff")
	x.W.WriteHeader(status)
}

// Clip keeps what a message repeats of a request short.
func Clip(s string) string {
	const most = 200
	if len(s) > most {
		s = s[:most] + "…"
	}
	return strings.ToValidUTF8(s, "�")
}
