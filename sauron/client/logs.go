package client

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"iter"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"kemi"
)

// Record is a log record as the server answers it.
type Record struct {
	ID         string            `json:"id"`
	Nanos      int64             `json:"ns,string"`
	Time       time.Time         `json:"time"`
	Level      string            `json:"level"`
	Severity   int               `json:"severity"`
	Stream     map[string]string `json:"stream"`
	Attrs      map[string]string `json:"attrs"`
	Body       string            `json:"body"`
	BodyBase64 string            `json:"bodyBase64,omitempty"`
	TraceID    string            `json:"traceId,omitempty"`
	SpanID     string            `json:"spanId,omitempty"`

	// Raw is the JSON as it came.
	Raw json.RawMessage `json:"-"`
}

// Text is the body as it was written, also where it is not UTF-8.
func (r *Record) Text() string {
	if r.BodyBase64 != "" {
		if b, err := base64.StdEncoding.DecodeString(r.BodyBase64); err == nil {
			return string(b)
		}
	}
	return r.Body
}

// LogQuery is what is searched for. Start and End are as the server takes them (1h-ago, now, milliseconds, RFC 3339); empty ones are its defaults.
type LogQuery struct {
	Query      string
	Start, End string
	Limit      int  // 0: the server's default
	Ascending  bool // oldest first
}

// Logs yields the records that match, while the server finds them.
func (c *Client) Logs(ctx context.Context, q LogQuery) iter.Seq2[Record, error] {
	v := url.Values{"query": {q.Query}, "format": {"ndjson"}}
	set := func(name, value string) {
		if value != "" {
			v.Set(name, value)
		}
	}
	set("start", q.Start)
	set("end", q.End)
	if q.Limit > 0 {
		v.Set("limit", strconv.Itoa(q.Limit))
	}
	if q.Ascending {
		v.Set("order", "asc")
	}
	return func(yield func(Record, error) bool) {
		resp, err := c.do(ctx, http.MethodGet, "/api/v2/logs/query", v, nil)
		if err != nil {
			yield(Record{}, err)
			return
		}
		defer resp.Body.Close()
		lines := bufio.NewReaderSize(resp.Body, 64<<10)
		for {
			line, err := readLine(lines)
			if errors.Is(err, io.EOF) && len(line) == 0 {
				return
			}
			if err != nil && !errors.Is(err, io.EOF) {
				yield(Record{}, broken(ctx, err))
				return
			}
			r, err := parseRecord(line)
			if !yield(r, err) || err != nil {
				return
			}
		}
	}
}

func broken(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if errors.Is(err, kemi.ErrTooLarge) {
		return err
	}
	return kemi.Errorf(kemi.ErrUnavailable, "the answer broke off: %w", err)
}

// maxLine is the longest line that is read: a record of 1 MiB of body and attributes each, escaped and in base64.
const maxLine = 32 << 20

// readLine reads a line without its end.
func readLine(r *bufio.Reader) ([]byte, error) {
	var out []byte
	for {
		part, err := r.ReadSlice('\n')
		out = append(out, part...)
		if len(out) > maxLine {
			return nil, kemi.Errorf(kemi.ErrTooLarge, "a line of the answer has more than %d bytes", maxLine)
		}
		if errors.Is(err, bufio.ErrBufferFull) {
			continue
		}
		if n := len(out); err == nil {
			out = out[:n-1]
		}
		return out, err
	}
}

func parseRecord(line []byte) (Record, error) {
	var r struct {
		Record
		Error string `json:"error"`
	}
	if err := json.Unmarshal(line, &r); err != nil {
		return Record{}, kemi.Errorf(kemi.ErrUnavailable, "the answer is no log record: %w", err)
	}
	if r.Error != "" {
		return Record{}, kemi.Errorf(kemi.ErrUnavailable, "the server stopped in the middle: %s", r.Error)
	}
	r.Raw = line
	return r.Record, nil
}

// TailEvent is something that live tail tells: a record; how many records were Dropped because the client reads too slowly; or that the connection
// was lost (Lost) and will be made again: what came meanwhile is not shown.
type TailEvent struct {
	Record  Record
	Dropped int
	Lost    error
}

const (
	firstRetry = 500 * time.Millisecond
	lastRetry  = 15 * time.Second
	// silence is how long nothing may come before the connection counts as lost: the server sends something every 15 s.
	silence = 45 * time.Second
)

// Tail follows what matches, live, until ctx ends or the caller stops. A connection that breaks is made again, with growing pauses; errors that
// another try would not mend (no permission, a wrong query) end it, and are yielded last.
func (c *Client) Tail(ctx context.Context, query string) iter.Seq2[TailEvent, error] {
	return func(yield func(TailEvent, error) bool) {
		wait := firstRetry
		for {
			heard, goOn, err := c.follow(ctx, query, yield)
			switch {
			case !goOn || ctx.Err() != nil:
				return
			case !errors.Is(err, kemi.ErrUnavailable) && !errors.Is(err, kemi.ErrLimited):
				yield(TailEvent{}, err)
				return
			}
			if heard {
				wait = firstRetry
			}
			if !yield(TailEvent{Lost: err}, nil) {
				return
			}
			select {
			case <-ctx.Done():
				return
			case <-time.After(max(wait, retryAfter(err))):
			}
			wait = min(2*wait, lastRetry)
		}
	}
}

// retryAfter is how long the server asked to wait, if it did.
func retryAfter(err error) time.Duration {
	if errors.Is(err, kemi.ErrLimited) {
		return kemi.RetryDelay(err)
	}
	return 0
}

// follow is one connection. It tells whether the server was heard, and whether the caller wants more.
func (c *Client) follow(ctx context.Context, query string, yield func(TailEvent, error) bool) (heard, goOn bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	resp, err := c.do(ctx, http.MethodGet, "/api/v2/logs/tail", url.Values{"query": {query}}, nil, "Accept", "text/event-stream")
	if err != nil {
		return false, true, err
	}
	defer resp.Body.Close()
	watchdog := time.AfterFunc(silence, cancel)
	defer watchdog.Stop()
	lines := bufio.NewReaderSize(resp.Body, 64<<10)
	var event string
	var data []byte
	for {
		watchdog.Reset(silence)
		line, err := readLine(lines)
		watchdog.Stop() // the caller may take his time
		if err != nil {
			if errors.Is(err, kemi.ErrTooLarge) {
				return heard, true, err
			}
			return heard, true, kemi.Errorf(kemi.ErrUnavailable, "the connection was lost: %w", err)
		}
		heard = true
		text := strings.TrimSuffix(string(line), "\r")
		switch {
		case strings.HasPrefix(text, "event: "):
			event = text[len("event: "):]
		case strings.HasPrefix(text, "data: "):
			data = []byte(text[len("data: "):])
		case text == "" && data != nil:
			e, err := parseEvent(event, data)
			if err != nil {
				return heard, true, err
			}
			if !yield(e, nil) {
				return heard, false, nil
			}
			event, data = "", nil
		}
	}
}

func parseEvent(event string, data []byte) (e TailEvent, err error) {
	if event == "dropped" {
		var d struct {
			Records int `json:"records"`
		}
		if err := json.Unmarshal(data, &d); err != nil {
			return e, kemi.Errorf(kemi.ErrUnavailable, "live tail: event %s: %w", event, err)
		}
		return TailEvent{Dropped: d.Records}, nil
	}
	e.Record, err = parseRecord(data)
	return e, err
}
