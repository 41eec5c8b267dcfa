package otlp

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"runtime/debug"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	_ "google.golang.org/grpc/encoding/gzip" // senders may pack with it
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"kemi"
	"kemi/collectors/listen"
)

// Server is OTLP over gRPC: the services for metrics and logs.
type Server struct {
	r    *Receiver
	auth listen.Authenticator
	log  *slog.Logger
	lis  net.Listener
	s    *grpc.Server
	// slots are the requests that may be read at a time: a message lies in memory whole.
	slots chan struct{}
}

// NewServer binds the address of the configuration, which must have one.
func (r *Receiver) NewServer(ctx context.Context, auth listen.Authenticator, log *slog.Logger) (*Server, error) {
	cfg := r.cfg.GRPC
	s := &Server{r: r, auth: auth, log: log, slots: make(chan struct{}, cfg.MaxRequests)}
	opts := []grpc.ServerOption{
		grpc.ForceServerCodecV2(rawCodec{}), grpc.MaxRecvMsgSize(cfg.MaxMessageBytes), grpc.MaxConcurrentStreams(64), grpc.MaxHeaderListSize(64 << 10),
		grpc.KeepaliveParams(keepalive.ServerParameters{MaxConnectionIdle: 10 * time.Minute, Time: 2 * time.Minute}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 10 * time.Second, PermitWithoutStream: true}), grpc.ConnectionTimeout(10 * time.Second),
	}
	tls, err := cfg.TLS.Server()
	if err != nil {
		return nil, fmt.Errorf("otlp: %w", err)
	}
	if tls != nil {
		opts = append(opts, grpc.Creds(credentials.NewTLS(tls)))
	}
	s.s = grpc.NewServer(opts...)
	s.service("opentelemetry.proto.collector.metrics.v1.MetricsService", kemi.MetricsWrite, s.metrics)
	s.service("opentelemetry.proto.collector.logs.v1.LogsService", kemi.LogsWrite, s.logs)
	var lc net.ListenConfig
	if s.lis, err = lc.Listen(ctx, "tcp", cfg.Listen); err != nil {
		return nil, kemi.Errorf(kemi.ErrUnavailable, "otlp: listen: %w", err)
	}
	return s, nil
}

// Addr is the address that it is bound to.
func (s *Server) Addr() net.Addr { return s.lis.Addr() }

// Close unbinds the address.
func (s *Server) Close() error {
	s.s.Stop()
	_ = s.lis.Close()
	return nil
}

// Run serves until ctx ends; requests under way may end then, for a while.
func (s *Server) Run(ctx context.Context) error {
	ended := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(ended)
		late := time.AfterFunc(5*time.Second, s.s.Stop)
		defer late.Stop()
		s.s.GracefulStop()
	})
	err := s.s.Serve(s.lis)
	if !stop() {
		<-ended
		return ctx.Err()
	}
	return err
}

// service registers the one method of a service of OTLP.
func (s *Server) service(name string, needs kemi.Permission, take func(context.Context, kemi.Identity, []byte) ([]byte, error)) {
	export := func(_ any, ctx context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (_ any, err error) {
		defer func() {
			if p := recover(); p != nil {
				s.log.Error("request ended by a panic", "service", name, "panic", p, "stack", string(debug.Stack()))
				err = status.Error(codes.Internal, "internal error; the server's log tells more")
			}
		}()
		answer, err := s.handle(ctx, needs, decode, take)
		if err != nil {
			return nil, s.fail(name, err)
		}
		s.r.in.Answered(protocolGRPC, http.StatusOK)
		return &answer, nil
	}
	s.s.RegisterService(&grpc.ServiceDesc{
		ServiceName: name, HandlerType: (*any)(nil), Methods: []grpc.MethodDesc{{MethodName: "Export", Handler: export}},
	}, nil)
}

func (s *Server) handle(ctx context.Context, needs kemi.Permission, decode func(any) error, take func(context.Context, kemi.Identity, []byte) ([]byte, error)) ([]byte, error) {
	// First who it is: nothing is read for nobody.
	id, err := s.identity(ctx)
	if err != nil {
		return nil, err
	}
	if !id.Can(needs) {
		return nil, kemi.Errorf(kemi.ErrDenied, "%s lacks the permission %s", id.Subject, needs&^id.Permissions)
	}
	select {
	case s.slots <- struct{}{}:
		defer func() { <-s.slots }()
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-time.After(s.r.in.Config().QueueWait):
		return nil, kemi.RetryAfter(kemi.Errorf(kemi.ErrUnavailable, "%d requests are being read already (ingest.otlp.grpc.maxRequests); come back later", cap(s.slots)), time.Second)
	}
	var body []byte
	if err := decode(&body); err != nil {
		return nil, err
	}
	s.r.in.Received(protocolGRPC, len(body))
	held, err := s.r.in.Reserve(ctx, (1+perByte)*len(body))
	if err != nil {
		return nil, err
	}
	defer held.Release()
	return take(ctx, id, body)
}

func (s *Server) metrics(ctx context.Context, id kemi.Identity, body []byte) ([]byte, error) {
	source := id.Subject
	if p, ok := peer.FromContext(ctx); ok {
		if host, _, err := net.SplitHostPort(p.Addr.String()); err == nil {
			source += "\x00" + host
		}
	}
	done, err := s.r.export(ctx, id, protocolGRPC, body, "", source)
	if err != nil {
		return nil, err
	}
	return done.protobuf(), nil
}

func (s *Server) logs(ctx context.Context, id kemi.Identity, body []byte) ([]byte, error) {
	rejected, message, err := s.r.in.WriteOTLPLogs(ctx, id, body)
	if err != nil {
		return nil, err
	}
	return result{rejected, message}.protobuf(), nil // the answer of both services has the same form
}

// identity asks as a request over HTTP with the same headers would.
func (s *Server) identity(ctx context.Context) (kemi.Identity, error) {
	r := &http.Request{Method: http.MethodPost, URL: &url.URL{Path: "/"}, Header: http.Header{}}
	md, _ := metadata.FromIncomingContext(ctx)
	for _, name := range []string{"authorization", "x-kemi-project", "x-scope-orgid", "x-auth-token", "origin", "sec-fetch-site"} {
		for _, v := range md.Get(name) {
			r.Header.Add(name, v)
		}
	}
	if a := md.Get(":authority"); len(a) > 0 {
		r.Host = a[0]
	}
	if p, ok := peer.FromContext(ctx); ok {
		r.RemoteAddr = p.Addr.String()
	}
	return s.auth.Authenticate(r)
}

// fail is err as gRPC tells it. What may be sent again says when.
func (s *Server) fail(service string, err error) error {
	if st, ok := status.FromError(err); ok {
		s.r.in.Answered(protocolGRPC, http.StatusBadRequest)
		return st.Err()
	}
	code := codes.Internal
	retry := false
	switch {
	case errors.Is(err, kemi.ErrTooLarge):
		code = codes.ResourceExhausted
	case errors.Is(err, kemi.ErrInvalid):
		code = codes.InvalidArgument
	case errors.Is(err, kemi.ErrUnauthorized):
		code = codes.Unauthenticated
	case errors.Is(err, kemi.ErrDenied):
		code = codes.PermissionDenied
	case errors.Is(err, kemi.ErrLimited):
		code, retry = codes.ResourceExhausted, true
	case errors.Is(err, kemi.ErrUnavailable), errors.Is(err, context.DeadlineExceeded):
		code, retry = codes.Unavailable, true
	case errors.Is(err, context.Canceled):
		code = codes.Canceled
	}
	s.r.in.Answered(protocolGRPC, kemi.HTTPStatus(err))
	if code == codes.Internal {
		s.log.Error("request failed", "service", service, "err", err)
		return status.Error(code, "internal error; the server's log tells more")
	}
	st := status.New(code, err.Error())
	if retry {
		if with, detailErr := st.WithDetails(&errdetails.RetryInfo{RetryDelay: durationpb.New(kemi.RetryDelay(err))}); detailErr == nil {
			st = with
		}
	}
	return st.Err()
}

// rawCodec hands messages on as they are: they are read as a request over HTTP is.
type rawCodec struct{}

func (rawCodec) Marshal(v any) (mem.BufferSlice, error) {
	b, ok := v.(*[]byte)
	if !ok {
		return nil, fmt.Errorf("a %T is not a message", v)
	}
	return mem.BufferSlice{mem.SliceBuffer(*b)}, nil
}

func (rawCodec) Unmarshal(data mem.BufferSlice, v any) error {
	b, ok := v.(*[]byte)
	if !ok {
		return fmt.Errorf("a %T is not a message", v)
	}
	*b = data.Materialize()
	return nil
}

func (rawCodec) Name() string { return "proto" }
