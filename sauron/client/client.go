// Package client speaks to a KEMI server over HTTP: metric queries, log search, live tail, put. It is what the command line uses, and
// imports nothing of the server but the vocabulary.
package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"kemi"
)

// Client is a server and who asks it. It may be used concurrently.
type Client struct {
	URL     string // http://127.0.0.1:7070
	Token   string // empty: none, which a server with --dev takes from its own machine
	Project string // empty: the token's own
	HTTP    *http.Client
}

// maxAnswer is how much of an answer that is kept in memory is read.
const maxAnswer = 256 << 20

// do sends a request. The answer's body is the caller's to close; an answer that is not 2xx is an error of the kind that its status says.
func (c *Client) do(ctx context.Context, method, path string, params url.Values, body []byte, headers ...string) (*http.Response, error) {
	u, err := url.Parse(strings.TrimRight(c.URL, "/"))
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return nil, kemi.Errorf(kemi.ErrInvalid, "server %q: must be an address such as http://127.0.0.1:7070", c.URL)
	}
	u.Path += path
	u.RawQuery = params.Encode()
	req, err := http.NewRequestWithContext(ctx, method, u.String(), bytes.NewReader(body))
	if err != nil {
		return nil, kemi.Errorf(kemi.ErrInvalid, "%s %s: %w", method, path, err)
	}
	for i := 0; i+1 < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	if c.Token != "" {
		req.Header.Set("Authorization", "Bearer "+c.Token)
	}
	if c.Project != "" {
		req.Header.Set("X-Kemi-Project", c.Project)
	}
	h := c.HTTP
	if h == nil {
		h = http.DefaultClient
	}
	resp, err := h.Do(req)
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, kemi.Errorf(kemi.ErrUnavailable, "%s %s: %w", method, path, err)
	}
	if resp.StatusCode/100 == 2 {
		return resp, nil
	}
	defer resp.Body.Close()
	return nil, failure(resp)
}

// failure is what an answer says that is not 2xx.
func failure(resp *http.Response) error {
	b, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		b = nil // the status says enough
	}
	text := strings.TrimSpace(string(b))
	var shapes struct {
		Detail string          `json:"detail"`
		Error  json.RawMessage `json:"error"`
	}
	if json.Unmarshal(b, &shapes) == nil {
		var tsdb struct {
			Message string `json:"message"`
		}
		var plain string
		switch {
		case shapes.Detail != "":
			text = shapes.Detail
		case json.Unmarshal(shapes.Error, &plain) == nil && plain != "":
			text = plain
		case json.Unmarshal(shapes.Error, &tsdb) == nil && tsdb.Message != "":
			text = tsdb.Message
		}
	}
	if text == "" {
		text = resp.Status
	}
	kind := kindOf(resp.StatusCode)
	if kind == nil {
		return fmt.Errorf("%s: %s", resp.Status, text)
	}
	err = kemi.Errorf(kind, "%s", text)
	if s, convErr := strconv.Atoi(resp.Header.Get("Retry-After")); convErr == nil && s >= 0 {
		err = kemi.RetryAfter(err, time.Duration(s)*time.Second)
	}
	return err
}

// kindOf is the kind of error that a status says, kemi.HTTPStatus backwards; nil if none.
func kindOf(status int) error {
	switch status {
	case http.StatusUnauthorized:
		return kemi.ErrUnauthorized
	case http.StatusForbidden:
		return kemi.ErrDenied
	case http.StatusNotFound:
		return kemi.ErrNotFound
	case http.StatusConflict:
		return kemi.ErrConflict
	case http.StatusRequestEntityTooLarge:
		return kemi.ErrTooLarge
	case http.StatusTooManyRequests:
		return kemi.ErrLimited
	case http.StatusNotImplemented:
		return errors.ErrUnsupported
	}
	switch {
	case status == http.StatusBadGateway, status == http.StatusServiceUnavailable, status == http.StatusGatewayTimeout:
		return kemi.ErrUnavailable
	case status/100 == 4:
		return kemi.ErrInvalid
	}
	return nil
}

// raw sends a request and gives the answer as it is.
func (c *Client) raw(ctx context.Context, method, path string, params url.Values, body []byte, headers ...string) ([]byte, error) {
	resp, err := c.do(ctx, method, path, params, body, headers...)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	switch {
	case err != nil:
		return nil, kemi.Errorf(kemi.ErrUnavailable, "%s %s: the answer broke off: %w", method, path, err)
	case len(b) > maxAnswer:
		return nil, kemi.Errorf(kemi.ErrTooLarge, "%s %s: the answer has more than %d bytes: ask for less", method, path, maxAnswer)
	}
	return b, nil
}

// Query asks a metric query, an OpenTSDB request in JSON, and gives the answer's JSON.
func (c *Client) Query(ctx context.Context, request []byte) ([]byte, error) {
	return c.raw(ctx, http.MethodPost, "/api/v2/query", nil, request, "Content-Type", "application/json")
}

// PromQL asks for the value of an expression at a time, or if step is positive over a range, and gives the answer's JSON. Zero times are left to
// the server.
func (c *Client) PromQL(ctx context.Context, expr string, start, end time.Time, step time.Duration) ([]byte, error) {
	v := url.Values{"query": {expr}}
	unix := func(name string, t time.Time) {
		if !t.IsZero() {
			v.Set(name, strconv.FormatFloat(float64(t.UnixMilli())/1000, 'f', 3, 64))
		}
	}
	path := "/api/v1/query"
	if step > 0 {
		path = "/api/v1/query_range"
		unix("start", start)
		unix("end", end)
		v.Set("step", strconv.FormatFloat(step.Seconds(), 'f', -1, 64))
	} else {
		unix("time", end)
	}
	return c.raw(ctx, http.MethodPost, path, nil, []byte(v.Encode()), "Content-Type", "application/x-www-form-urlencoded")
}

// DataPoint is a sample as OpenTSDB's put takes it.
type DataPoint struct {
	Metric    string            `json:"metric"`
	Timestamp int64             `json:"timestamp"` // seconds or milliseconds
	Value     json.Number       `json:"value"`
	Tags      map[string]string `json:"tags"`
}

// Put writes samples. It returns when they are durable.
func (c *Client) Put(ctx context.Context, points []DataPoint) error {
	body, err := json.Marshal(points)
	if err != nil {
		return kemi.Errorf(kemi.ErrInvalid, "put: %w", err)
	}
	_, err = c.raw(ctx, http.MethodPost, "/api/put", url.Values{"details": {"true"}}, body, "Content-Type", "application/json")
	return err
}

// RemoteWrite writes a body of Prometheus' remote write 1.0, packed with snappy. It returns when the samples are durable.
func (c *Client) RemoteWrite(ctx context.Context, body []byte) error {
	_, err := c.raw(ctx, http.MethodPost, "/api/v1/write", nil, body, "Content-Type", "application/x-protobuf", "Content-Encoding", "snappy",
		"X-Prometheus-Remote-Write-Version", "0.1.0")
	return err
}
