package api

import (
	"compress/gzip"
	"net/http"
	"net/netip"

	"github.com/klauspost/compress/gzhttp"
)

// packFrom is how many bytes an answer has at least to be packed: less fits a few packets as it is.
const packFrom = 4 << 10

// packer makes what packs large answers (gzip or zstd, RFC 9110 §12.5.3) for those who say that they understand it, and who are not on this
// host: there it would cost both sides more than the bytes do. A proxy on this host packs for its own clients, if that is wanted.
func packer() (func(http.Handler) http.Handler, error) {
	wrap, err := gzhttp.NewWrapper(gzhttp.MinSize(packFrom), gzhttp.CompressionLevel(gzip.BestSpeed))
	if err != nil {
		return nil, err
	}
	return func(h http.Handler) http.Handler {
		packing := wrap(h)
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if from, err := netip.ParseAddrPort(r.RemoteAddr); err == nil && from.Addr().Unmap().IsLoopback() {
				h.ServeHTTP(w, r)
				return
			}
			packing(w, r)
		})
	}, nil
}
