// A balancer on httputil.ReverseProxy in the manner of small Go balancers, to compare fastlb
// with: an atomic cursor over the backends, those that are down skipped and probed until they
// are back.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const (
	connectTimeout = 3 * time.Second
	idleTimeout    = 300 * time.Second
	probeInterval  = time.Second
	// Kept for each backend; all together there is no limit.
	idleUpstreamConnectionsMax = 4096
	copyBufferBytes            = 64 * 1024
	// Four times the default: the live heap is small, so that collecting less often costs
	// little memory.
	gcPercent = 400
)

func main() {
	listen := flag.String("listen", "", "where it listens, as `ADDR`")
	list := flag.String("backends", "", "where the backends listen, as `ADDR,ADDR,..`")
	version := flag.Bool("version", false, "print the version of Go and exit")
	flag.Parse()
	if *version {
		fmt.Println(runtime.Version())
		return
	}
	if *listen == "" || *list == "" || flag.NArg() > 0 {
		flag.Usage()
		os.Exit(2)
	}
	runtime.GOMAXPROCS(1)
	debug.SetGCPercent(gcPercent)
	server := http.Server{
		Addr:              *listen,
		Handler:           newProxy(newBalancer(strings.Split(*list, ","))),
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       idleTimeout,
		ErrorLog:          log.New(io.Discard, "", 0),
	}
	log.Fatal(server.ListenAndServe())
}

// newProxy returns the handler; ReverseProxy itself adds X-Forwarded-For.
func newProxy(balancer *balancer) http.Handler {
	return &httputil.ReverseProxy{
		Director:   keepUserAgent,
		Transport:  balancer,
		BufferPool: &bufferPool{},
		ErrorLog:   log.New(io.Discard, "", 0),
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) {
			status := http.StatusBadGateway
			if errors.Is(err, errNoBackend) {
				status = http.StatusServiceUnavailable
			}
			w.WriteHeader(status)
		},
	}
}

// keepUserAgent keeps the transport from adding one where the client sent none.
func keepUserAgent(request *http.Request) {
	if _, sent := request.Header["User-Agent"]; !sent {
		request.Header["User-Agent"] = nil
	}
}

var errNoBackend = errors.New("no backend is up")

type backend struct {
	address string
	down    atomic.Bool
}

// balancer sends each request to the next backend that is up.
type balancer struct {
	backends  []*backend
	cursor    atomic.Uint64
	transport http.Transport
}

func newBalancer(addresses []string) *balancer {
	b := &balancer{transport: http.Transport{
		DialContext:           (&net.Dialer{Timeout: connectTimeout}).DialContext,
		MaxIdleConnsPerHost:   idleUpstreamConnectionsMax,
		IdleConnTimeout:       idleTimeout,
		DisableCompression:    true,
		ExpectContinueTimeout: time.Second,
		ReadBufferSize:        16 * 1024,
		WriteBufferSize:       16 * 1024,
	}}
	for _, address := range addresses {
		b.backends = append(b.backends, &backend{address: address})
	}
	return b
}

// next returns nil if nobody is up.
func (b *balancer) next() *backend {
	for range b.backends {
		turn := b.cursor.Add(1) - 1
		candidate := b.backends[turn%uint64(len(b.backends))]
		if !candidate.down.Load() {
			return candidate
		}
	}
	return nil
}

// RoundTrip asks the next backend if one cannot be connected to: that one has seen nothing of the
// request. The request is a copy of the proxy's, so that it may be changed.
func (b *balancer) RoundTrip(request *http.Request) (*http.Response, error) {
	request.URL.Scheme = "http"
	if request.Body != nil {
		// The transport closes it even if it could not connect; the proxy closes it at the end.
		request.Body = io.NopCloser(request.Body)
	}
	for {
		chosen := b.next()
		if chosen == nil {
			return nil, errNoBackend
		}
		request.URL.Host = chosen.address
		response, err := b.transport.RoundTrip(request)
		var failure *net.OpError
		if err == nil || !errors.As(err, &failure) || failure.Op != "dial" {
			return response, err
		}
		if errors.Is(err, context.Canceled) {
			return nil, err
		}
		if !chosen.down.Swap(true) {
			go chosen.probe()
		}
	}
}

// probe waits until the backend accepts connections again.
func (b *backend) probe() {
	ticker := time.NewTicker(probeInterval)
	defer ticker.Stop()
	for range ticker.C {
		connection, err := net.DialTimeout("tcp", b.address, connectTimeout)
		if err == nil {
			connection.Close()
			b.down.Store(false)
			return
		}
	}
}

// bufferPool keeps the buffers that bodies are copied through.
type bufferPool struct{ kept sync.Pool }

func (p *bufferPool) Get() []byte {
	if buffer, ok := p.kept.Get().(*[copyBufferBytes]byte); ok {
		return buffer[:]
	}
	return make([]byte, copyBufferBytes)
}

func (p *bufferPool) Put(buffer []byte) { p.kept.Put((*[copyBufferBytes]byte)(buffer)) }
