// Package dashboard is a node's HTTP side: a page for people, /healthz and /readyz for supervisors, /metrics for Prometheus. It only reads.
package dashboard

import (
	_ "embed"
	"encoding/json"
	"html/template"
	"net/http"
	"net/http/pprof"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/quorate/quorate/api"
	"github.com/quorate/quorate/cluster"
	"github.com/quorate/quorate/stores"
)

// Source is where the dashboard reads.
type Source interface {
	Name() string
	Health() *api.HealthResponse
	Directory() *cluster.Directory
	OpenStores() []*stores.Store
	LogStats() map[string]float64
	TransportStats() map[string]float64
}

//go:embed page.html
var pageText string

var page = template.Must(template.New("page").Parse(pageText))

// New returns the handler of all paths. withPprof adds /debug/pprof/.
func New(s Source, withPprof bool) http.Handler {
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), &collector{source: s})
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain")
		w.Write([]byte("ok\n"))
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		h := s.Health()
		w.Header().Set("Content-Type", "application/json")
		if !h.Ready {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		json.NewEncoder(w).Encode(h)
	})
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		page.Execute(w, view(s))
	})
	if withPprof {
		mux.HandleFunc("GET /debug/pprof/", pprof.Index)
		mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
		mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
		mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	}
	return mux
}

// pageView is what the page shows.
type pageView struct {
	Node     string
	Version  string
	Cluster  string
	Health   *api.HealthResponse
	Members  []api.NodeInfo
	Unlisted []api.NodeInfo
	Leaders  *api.LeadersResponse
}

func view(s Source) pageView {
	d := s.Directory()
	v := pageView{Node: s.Name(), Version: api.Version, Cluster: d.ClusterID(), Health: s.Health(), Leaders: d.Leaders(led(s))}
	v.Members, v.Unlisted = d.Nodes()
	return v
}

func led(s Source) []cluster.Led {
	var out []cluster.Led
	for _, st := range s.OpenStores() {
		out = append(out, st)
	}
	return out
}
