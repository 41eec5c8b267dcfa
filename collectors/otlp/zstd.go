package otlp

import (
	"io"
	"sync"

	"github.com/klauspost/compress/zstd"
	"google.golang.org/grpc/encoding"
)

// gRPC knows how a message is packed by a name in a table of the process; there is no other way to add one.
func init() { encoding.RegisterCompressor(&zstdCompressor{}) }

// zstdCompressor lets senders pack messages with zstd, as OpenTelemetry's collector does if it is told to.
type zstdCompressor struct{ writers, readers sync.Pool }

func (c *zstdCompressor) Name() string { return "zstd" }

func (c *zstdCompressor) Compress(w io.Writer) (io.WriteCloser, error) {
	if e, ok := c.writers.Get().(*zstdWriter); ok {
		e.Reset(w)
		return e, nil
	}
	e, err := zstd.NewWriter(w, zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(512<<10))
	if err != nil {
		return nil, err
	}
	return &zstdWriter{e, &c.writers}, nil
}

type zstdWriter struct {
	*zstd.Encoder
	pool *sync.Pool
}

func (w *zstdWriter) Close() error {
	defer w.pool.Put(w)
	return w.Encoder.Close()
}

func (c *zstdCompressor) Decompress(r io.Reader) (io.Reader, error) {
	if d, ok := c.readers.Get().(*zstdReader); ok {
		if err := d.Reset(r); err != nil {
			c.readers.Put(d)
			return nil, err
		}
		return d, nil
	}
	// How much a message may unpack to is gRPC's limit; this one is for what the decoder itself needs.
	d, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(8<<20), zstd.WithDecoderLowmem(true))
	if err != nil {
		return nil, err
	}
	return &zstdReader{d, &c.readers}, nil
}

type zstdReader struct {
	*zstd.Decoder
	pool *sync.Pool
}

func (r *zstdReader) Read(p []byte) (int, error) {
	n, err := r.Decoder.Read(p)
	if err == io.EOF { //nolint:errorlint // a reader's plain end
		r.pool.Put(r)
	}
	return n, err
}
