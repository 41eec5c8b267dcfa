package agent

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"kemi"
	"kemi/pipeline/codec"
)

// requestTime is the longest that a request may take.
const requestTime = 30 * time.Second

// HTTPSink is a server over HTTP.
type HTTPSink struct {
	base      string
	project   string
	tokenFile string
	client    *http.Client

	mu    sync.Mutex
	token string
	zip   *gzip.Writer
}

// NewHTTPSink makes a Sink of what c says about the server. It connects to nothing yet.
func NewHTTPSink(c Config) (*HTTPSink, error) {
	s := &HTTPSink{base: strings.TrimRight(c.Server, "/"), project: c.Project, tokenFile: c.TokenFile}
	conf := &tls.Config{MinVersion: tls.VersionTLS12}
	if c.TLS.CA != "" {
		pem, err := os.ReadFile(c.TLS.CA)
		if err != nil {
			return nil, kemi.Errorf(kemi.ErrInvalid, "tls.ca: %w", err)
		}
		if conf.RootCAs = x509.NewCertPool(); !conf.RootCAs.AppendCertsFromPEM(pem) {
			return nil, kemi.Errorf(kemi.ErrInvalid, "tls.ca: %s: has no certificate in PEM", c.TLS.CA)
		}
	}
	if c.TLS.Cert != "" {
		pair, err := tls.LoadX509KeyPair(c.TLS.Cert, c.TLS.Key)
		if err != nil {
			return nil, kemi.Errorf(kemi.ErrInvalid, "tls: %w", err)
		}
		conf.Certificates = []tls.Certificate{pair}
	}
	if _, err := s.readToken(); err != nil && !os.IsNotExist(err) {
		return nil, kemi.Errorf(kemi.ErrInvalid, "tokenFile: %w", err) // one that is not there yet may come: the server makes it
	}
	s.client = &http.Client{
		Timeout: requestTime,
		Transport: &http.Transport{
			Proxy: http.ProxyFromEnvironment, TLSClientConfig: conf, MaxIdleConnsPerHost: 2, MaxConnsPerHost: 4, IdleConnTimeout: 90 * time.Second,
			TLSHandshakeTimeout: 10 * time.Second, ForceAttemptHTTP2: true, DisableCompression: true, WriteBufferSize: 32 << 10,
		},
		// A redirect could carry token and data to where nobody meant them to go.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return s, nil
}

// readToken reads the token anew.
func (s *HTTPSink) readToken() (string, error) {
	if s.tokenFile == "" {
		return "", nil
	}
	b, err := os.ReadFile(s.tokenFile)
	s.mu.Lock()
	defer s.mu.Unlock()
	if err == nil {
		s.token = strings.TrimSpace(string(b))
	}
	return s.token, err
}

func (s *HTTPSink) currentToken() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.token
}

// Metrics is Sink's.
func (s *HTTPSink) Metrics(ctx context.Context, body []byte, batch string) error {
	h := http.Header{
		"Content-Type": {codec.RemoteWrite2}, "Content-Encoding": {"snappy"},
		"X-Prometheus-Remote-Write-Version": {"2.0.0"}, "X-Kemi-Batch": {batch},
	}
	_, err := s.do(ctx, http.MethodPost, "/api/v1/write", h, body)
	return err // new series without room are a partialError
}

// Logs is Sink's. Records that the server left out are a partialError.
func (s *HTTPSink) Logs(ctx context.Context, body []byte, batch string) error {
	h := http.Header{"Content-Type": {"application/x-protobuf"}, "X-Kemi-Batch": {batch}}
	if packed := s.pack(body); len(packed) < len(body) {
		h.Set("Content-Encoding", "gzip")
		body = packed
	}
	answer, err := s.do(ctx, http.MethodPost, "/v1/logs", h, body)
	if err != nil {
		return err
	}
	return partial(answer)
}

func (s *HTTPSink) pack(body []byte) []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	var b bytes.Buffer
	if s.zip == nil {
		s.zip, _ = gzip.NewWriterLevel(nil, gzip.BestSpeed) // the level exists
	}
	s.zip.Reset(&b)
	_, _ = s.zip.Write(body) // a Buffer takes everything
	_ = s.zip.Close()
	return b.Bytes()
}

// Register is Sink's.
func (s *HTTPSink) Register(ctx context.Context, h Host) error {
	body, err := json.Marshal(struct {
		Spec Host `json:"spec"`
	}{h})
	if err != nil {
		return err
	}
	// Not a PUT of the host: that is what people say of it, which goes before what the agent says.
	_, err = s.do(ctx, http.MethodPost, "/api/v2/ims/hosts/"+url.PathEscape(h.Name)+"/register", http.Header{"Content-Type": {"application/json"}}, body)
	return err
}

// do sends a request, again with a new token if the server refuses the one at hand.
func (s *HTTPSink) do(ctx context.Context, method, path string, h http.Header, body []byte) ([]byte, error) {
	token := s.currentToken()
	if token == "" {
		token, _ = s.readToken() // without one the server says what is missing
	}
	answer, err := s.once(ctx, method, path, h, body, token)
	if kemi.HTTPStatus(err) == http.StatusUnauthorized {
		if fresh, readErr := s.readToken(); readErr == nil && fresh != token {
			return s.once(ctx, method, path, h, body, fresh)
		}
	}
	return answer, err
}

func (s *HTTPSink) once(ctx context.Context, method, path string, h http.Header, body []byte, token string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, s.base+path, bytes.NewReader(body))
	if err != nil {
		return nil, kemi.Errorf(kemi.ErrInvalid, "request: %w", err)
	}
	req.Header = h.Clone()
	req.Header.Set("User-Agent", "kemi-agent")
	if s.project != "" {
		req.Header.Set("X-Kemi-Project", s.project)
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	res, err := s.client.Do(req)
	if err != nil {
		return nil, kemi.Errorf(kemi.ErrUnavailable, "%w", err)
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(res.Body, 64<<10))
	if err == nil {
		_, err = io.Copy(io.Discard, io.LimitReader(res.Body, 64<<10)) // so that the connection can be used again
	}
	if res.StatusCode/100 == 2 {
		return answer, nil // it was taken, even if the answer did not come to its end
	}
	if err != nil {
		return nil, kemi.Errorf(kemi.ErrUnavailable, "%s %s: %w", method, path, err)
	}
	message := fmt.Sprintf("%s %s: %s: %.500s", method, path, res.Status, strings.TrimSpace(string(answer)))
	if n, err := strconv.ParseInt(res.Header.Get("X-Kemi-Series-Over-Limit"), 10, 64); err == nil && n > 0 {
		return nil, Partial(n, message)
	}
	return nil, statusError(res, message)
}

// statusError is what an answer other than 2xx means.
func statusError(res *http.Response, message string) error {
	kind := kemi.ErrInvalid
	switch code := res.StatusCode; {
	case code == http.StatusUnauthorized, code == http.StatusProxyAuthRequired:
		kind = kemi.ErrUnauthorized
	case code == http.StatusForbidden:
		kind = kemi.ErrDenied
	case code == http.StatusNotFound:
		kind = kemi.ErrNotFound
	case code == http.StatusRequestEntityTooLarge:
		kind = kemi.ErrTooLarge
	case code == http.StatusTooManyRequests:
		kind = kemi.ErrLimited
	case code == http.StatusRequestTimeout, code == http.StatusTooEarly, code/100 == 3:
		kind = kemi.ErrUnavailable // a proxy in between, or one that should not be there
	case code == http.StatusInternalServerError:
		return fmt.Errorf("%s", message)
	case code >= 500:
		kind = kemi.ErrUnavailable
	}
	err := kemi.Errorf(kind, "%s", message)
	if d, ok := retryAfter(res.Header.Get("Retry-After"), res.Header.Get("Date")); ok {
		err = kemi.RetryAfter(err, d)
	}
	return err
}

// retryAfter reads the header of that name: seconds, or a date by the server's own clock.
func retryAfter(v, date string) (time.Duration, bool) {
	if n, err := strconv.ParseUint(v, 10, 31); err == nil {
		return time.Duration(n) * time.Second, true
	}
	at, err := http.ParseTime(v)
	now, errNow := http.ParseTime(date)
	if err != nil || errNow != nil {
		return 0, false
	}
	return max(0, at.Sub(now)), true
}

// Partial is a Sink's error that says that a batch was taken, but for so many log records, or new series that there was no room for.
func Partial(left int64, message string) error { return &partialError{left, message} }

type partialError struct {
	records int64
	message string
}

func (e *partialError) Error() string { return fmt.Sprintf("%d left out: %s", e.records, e.message) }

// partial reads the partial_success of an ExportLogsServiceResponse.
func partial(answer []byte) error {
	var inner []byte
	for b := answer; len(b) > 0; {
		n, t, m := protowire.ConsumeField(b)
		if m < 0 {
			return nil // not what it should be; but the status was right
		}
		if n == 1 && t == protowire.BytesType {
			_, _, k := protowire.ConsumeTag(b)
			inner, _ = protowire.ConsumeBytes(b[k:])
		}
		b = b[m:]
	}
	e := &partialError{}
	for b := inner; len(b) > 0; {
		n, t, m := protowire.ConsumeField(b)
		if m < 0 {
			return nil
		}
		_, _, k := protowire.ConsumeTag(b)
		switch {
		case n == 1 && t == protowire.VarintType:
			v, _ := protowire.ConsumeVarint(b[k:])
			e.records = int64(v)
		case n == 2 && t == protowire.BytesType:
			v, _ := protowire.ConsumeBytes(b[k:])
			e.message = string(v)
		}
		b = b[m:]
	}
	if e.records <= 0 {
		return nil
	}
	return e
}
