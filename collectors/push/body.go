package push

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/s2"
	"github.com/klauspost/compress/zlib"
	"github.com/klauspost/compress/zstd"

	"kemi"
)

// body is the bytes of a request, and the share of the memory that they take.
type body struct {
	p    *Push
	buf  *bytes.Buffer
	held atomic.Int64
}

// The buffers of bodies are used again, but not those that one large request has made large.
var buffers = sync.Pool{New: func() any { return new(bytes.Buffer) }}

const maxPooledBuffer = 4 << 20

// readBody reads a request as it was sent. The caller must release it, and not before it has done with its bytes.
//
// Errors: ErrTooLarge, ErrUnavailable (all memory for requests is taken), ErrInvalid (it ended early).
func (p *Push) readBody(w http.ResponseWriter, r *http.Request) (*body, error) {
	limit := p.cfg.MaxBodyBytes
	if r.ContentLength > limit {
		return nil, p.tooLarge(r.ContentLength, limit)
	}
	b := &body{p: p}
	first := r.ContentLength
	if first < 0 {
		first = 64 << 10
	}
	ctx, cancel := context.WithTimeout(r.Context(), p.cfg.QueueWait)
	err := b.hold(ctx, first)
	cancel()
	if err != nil {
		return nil, err
	}
	b.buf = buffers.Get().(*bytes.Buffer)
	b.buf.Reset()
	in := http.MaxBytesReader(w, r.Body, limit)
	if r.ContentLength >= 0 {
		b.buf.Grow(int(r.ContentLength) + bytes.MinRead)
		if _, err = io.CopyN(b.buf, in, r.ContentLength); err == nil {
			return b, nil
		}
		if err == io.EOF { //nolint:errorlint // a reader's plain end
			err = io.ErrUnexpectedEOF
		}
	}
	for err == nil {
		if room := b.held.Load() - int64(b.buf.Len()); room > 0 {
			_, err = io.CopyN(b.buf, in, room)
		} else {
			err = b.take(b.held.Load())
		}
	}
	var tooLarge *http.MaxBytesError
	switch {
	case err == io.EOF: //nolint:errorlint // a reader's plain end
		return b, nil
	case errors.As(err, &tooLarge):
		err = p.tooLarge(-1, limit)
	case errors.Is(err, kemi.ErrUnavailable):
	default:
		err = kemi.Errorf(kemi.ErrInvalid, "body: ended after %d bytes: %w", b.buf.Len(), err)
	}
	b.release()
	return nil, err
}

func (p *Push) tooLarge(size, limit int64) error {
	of := "more"
	if size >= 0 {
		of = fmt.Sprint(size)
	}
	return kemi.Errorf(kemi.ErrTooLarge, "body: %s bytes, at most %d are taken in one request; send it in parts", of, limit)
}

func (b *body) bytes() []byte { return b.buf.Bytes() }

// text is the bytes as a string that is kept: nobody uses their memory again. The body must not be used any more, but for release.
func (b *body) text() string {
	data := b.buf.Bytes()
	if spare := cap(data) - len(data); spare > len(data)/4+64<<10 {
		return string(data) // records that keep a text must not keep much more with it
	}
	b.buf = nil
	return unsafe.String(unsafe.SliceData(data), len(data))
}

// hold takes n more bytes of the memory; it waits for them until ctx ends.
func (b *body) hold(ctx context.Context, n int64) error {
	if b.p.memory.TryAcquire(n) || n <= b.p.cfg.MemoryBytes && b.p.memory.Acquire(ctx, n) == nil {
		b.held.Add(n)
		return nil
	}
	return b.noMemory()
}

// take is hold without waiting: who holds some memory already must not wait for more.
func (b *body) take(n int64) error {
	if !b.p.memory.TryAcquire(n) {
		return b.noMemory()
	}
	b.held.Add(n)
	return nil
}

func (b *body) noMemory() error {
	b.p.m.noMemory.Inc()
	return kemi.RetryAfter(kemi.Errorf(kemi.ErrUnavailable, "the memory for requests under way (%d bytes) is taken; come back later", b.p.cfg.MemoryBytes), time.Second)
}

// release gives the memory back, and the buffer to the next request.
func (b *body) release() {
	b.p.memory.Release(b.held.Swap(0))
	if b.buf != nil && b.buf.Cap() <= maxPooledBuffer {
		buffers.Put(b.buf)
	}
	b.buf = nil
}

// unpack replaces the bytes by what they are once they are unpacked: Content-Encoding gzip, deflate, zstd, snappy (one block), identity
// or none.
//
// Errors: ErrTooLarge, ErrUnavailable, ErrInvalid (broken; an encoding that nobody knows is errUnsupportedMedia).
func (b *body) unpack(encoding string) error {
	limit := b.p.cfg.MaxDecodedBytes
	var in io.ReadCloser
	var err error
	switch strings.ToLower(strings.TrimSpace(encoding)) {
	case "", "identity":
		return nil
	case "gzip", "x-gzip":
		in, err = gzip.NewReader(b.buf)
	case "deflate":
		in, err = zlib.NewReader(b.buf)
	case "zstd":
		var d *zstd.Decoder
		if d, err = zstd.NewReader(b.buf, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(uint64(limit))); err == nil {
			in = d.IOReadCloser()
		}
	case "snappy":
		return b.unpackSnappy()
	default:
		return fmt.Errorf("%w: Content-Encoding %q: must be gzip, deflate, zstd, snappy or identity", errUnsupportedMedia, encoding)
	}
	if err != nil {
		return kemi.Errorf(kemi.ErrInvalid, "body: broken %s: %w", encoding, err)
	}
	defer in.Close()
	out := buffers.Get().(*bytes.Buffer)
	out.Reset()
	unpacked := &body{p: b.p, buf: out}
	for {
		if err := unpacked.take(256 << 10); err != nil {
			unpacked.release()
			return err
		}
		_, err := io.CopyN(out, in, 256<<10)
		if int64(out.Len()) > limit {
			unpacked.release()
			return kemi.Errorf(kemi.ErrTooLarge, "body: unpacks to more than %d bytes; send it in parts", limit)
		}
		if err == io.EOF { //nolint:errorlint // a reader's plain end
			break
		}
		if err != nil {
			unpacked.release()
			return kemi.Errorf(kemi.ErrInvalid, "body: broken %s: %w", encoding, err)
		}
	}
	b.swap(unpacked)
	return nil
}

func (b *body) unpackSnappy() error {
	n, err := snappySize(b.buf.Bytes(), b.p.cfg.MaxDecodedBytes)
	if err != nil {
		return err
	}
	unpacked := &body{p: b.p, buf: buffers.Get().(*bytes.Buffer)}
	unpacked.buf.Reset()
	if err := unpacked.take(n); err != nil {
		unpacked.release()
		return err
	}
	unpacked.buf.Grow(int(n))
	out, err := s2.Decode(unpacked.buf.AvailableBuffer()[:n], b.buf.Bytes())
	if err != nil {
		unpacked.release()
		return kemi.Errorf(kemi.ErrInvalid, "body: broken snappy: %w", err)
	}
	unpacked.buf.Write(out)
	b.swap(unpacked)
	return nil
}

// snappySize is what the header of a snappy block says that it unpacks to: checked before any memory is taken for it.
func snappySize(packed []byte, limit int64) (int64, error) {
	n, k := binary.Uvarint(packed)
	if k <= 0 {
		return 0, kemi.Errorf(kemi.ErrInvalid, "body: broken snappy: %d bytes without a length at the beginning", len(packed))
	}
	if n > uint64(limit) {
		return 0, kemi.Errorf(kemi.ErrTooLarge, "body: unpacks to %d bytes, at most %d are taken in one request; send it in parts", n, limit)
	}
	return int64(n), nil
}

// swap takes over what other holds and lets its own go.
func (b *body) swap(other *body) {
	b.buf, other.buf = other.buf, b.buf
	held := b.held.Load()
	b.held.Store(other.held.Load())
	other.held.Store(held)
	other.release()
}

// errUnsupportedMedia is answered with 415.
var errUnsupportedMedia = errors.New("unsupported media type")

func unsupportedMedia(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{errUnsupportedMedia}, args...)...)
}

// statusOf is kemi.HTTPStatus with the one status that has no kind.
func statusOf(err error) int {
	if errors.Is(err, errUnsupportedMedia) {
		return http.StatusUnsupportedMediaType
	}
	return kemi.HTTPStatus(err)
}

// writeError is kemi.WriteError with the one status that has no kind.
func writeError(w http.ResponseWriter, d kemi.Dialect, err error) {
	if errors.Is(err, errUnsupportedMedia) {
		http.Error(w, err.Error(), http.StatusUnsupportedMediaType)
		return
	}
	kemi.WriteError(w, d, err)
}
