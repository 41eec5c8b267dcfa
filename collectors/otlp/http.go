package otlp

import (
	"mime"
	"net/http"

	"kemi"
	"kemi/collectors/push"
)

const (
	mediaProtobuf = "application/x-protobuf"
	mediaJSON     = "application/json"
)

// Routes are what it serves over HTTP: OTLP's own path, and where Prometheus and VictoriaMetrics have it.
func (r *Receiver) Routes() []kemi.Route {
	var routes []kemi.Route
	for _, path := range []string{"/v1/metrics", "/api/v1/otlp/v1/metrics", "/opentelemetry/v1/metrics"} {
		routes = append(routes, kemi.Route{Pattern: "POST " + path, Needs: kemi.MetricsWrite, Dialect: kemi.DialectKEMI, Handle: r.serve})
	}
	return routes
}

func (r *Receiver) serve(w http.ResponseWriter, req *http.Request, id kemi.Identity) {
	kind, _, _ := mime.ParseMediaType(req.Header.Get("Content-Type"))
	if kind != mediaProtobuf && kind != mediaJSON {
		r.in.Fail(w, kemi.DialectKEMI, protocol, push.UnsupportedMedia("Content-Type %q: must be %s or %s", kind, mediaProtobuf, mediaJSON))
		return
	}
	done, err := r.take(w, req, id, kind)
	if err != nil {
		r.in.FailOTLP(w, kind, protocol, err)
		return
	}
	b := done.protobuf()
	if kind == mediaJSON {
		if b, err = done.json(); err != nil {
			r.in.Fail(w, kemi.DialectKEMI, protocol, err)
			return
		}
	}
	r.in.Answered(protocol, http.StatusOK)
	w.Header().Set("Content-Type", kind)
	_, _ = w.Write(b)
}

// perByte is about how much memory decoding takes for each byte of a body, beside the body.
const perByte = 3

func (r *Receiver) take(w http.ResponseWriter, req *http.Request, id kemi.Identity, kind string) (result, error) {
	batch, err := push.Batch(req)
	if err != nil {
		return result{}, err
	}
	body, err := r.in.ReadBody(w, req, protocol)
	if err != nil {
		return result{}, err
	}
	defer body.Release()
	if err := body.Hold(perByte * len(body.Bytes())); err != nil {
		return result{}, err
	}
	b := body.Bytes()
	if kind == mediaJSON {
		if b, err = fromJSON(b); err != nil {
			return result{}, err
		}
	}
	return r.export(req.Context(), id, protocol, b, batch, push.Source(req, id))
}
