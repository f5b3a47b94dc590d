package dashboard

import (
	"context"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/quorate/quorate/api"
	"github.com/quorate/quorate/raftnode"
)

// Metrics of a node. Everything is read when it is scraped.
var (
	descReady     = prometheus.NewDesc("quorate_ready", "1 when the node is ready, else 0.", nil, nil)
	descStores    = prometheus.NewDesc("quorate_stores", "Stores open on this node.", nil, nil)
	descLeads     = prometheus.NewDesc("quorate_store_leads", "1 when this node serves the store as leader, else 0.", []string{"store"}, nil)
	descHasLeader = prometheus.NewDesc("quorate_store_has_leader", "1 when this node knows a leader of the store, else 0.", []string{"store"}, nil)
	descTerm      = prometheus.NewDesc("quorate_store_term", "Raft term of the store as this node knows it.", []string{"store"}, nil)
	descElections = prometheus.NewDesc("quorate_store_elections_total", "Leaders of the store this node has seen since it started.", []string{"store"}, nil)
	descPosition  = prometheus.NewDesc("quorate_store_last_position", "Position of the last event in this node's replica.", []string{"store"}, nil)
	descDisk      = prometheus.NewDesc("quorate_store_disk_bytes", "Size of this node's replica on disk, without the shared log.", []string{"store"}, nil)
	descScavenged = prometheus.NewDesc("quorate_store_scavenged_events_total", "Events that are gone and whose records this replica has replaced by stubs, since start.", []string{"store"}, nil)
	descGivenBack = prometheus.NewDesc("quorate_store_given_back_bytes_total", "Bytes of the state file that were given back to the file system, since start.", []string{"store"}, nil)
	descUp        = prometheus.NewDesc("quorate_member_up", "1 when this node hears the member, else 0.", []string{"member"}, nil)
	descLog       = prometheus.NewDesc("quorate_log_total", "Counters of the shared Raft log since start.", []string{"what"}, nil)
	descTransport = prometheus.NewDesc("quorate_transport_total", "Counters of the Raft transport between nodes since start: frames and the writes that carry them, messages dropped for want of room, connections broken, and connections of strangers, who did not speak the protocol or had no certificate that is trusted here.", []string{"what"}, nil)
)

type collector struct{ source Source }

func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{descReady, descStores, descLeads, descHasLeader, descTerm, descElections, descPosition, descDisk, descScavenged, descGivenBack, descUp, descLog, descTransport} {
		ch <- d
	}
}

func (c *collector) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	open := c.source.OpenStores()
	gauge(descReady, flag(c.source.Health().Ready))
	gauge(descStores, float64(len(open)))
	for _, s := range open {
		l := s.Leadership()
		gauge(descLeads, flag(l.Role == raftnode.Serving), s.Name())
		gauge(descHasLeader, flag(l.Leader != ""), s.Name())
		gauge(descTerm, float64(l.Term), s.Name())
		ch <- prometheus.MustNewConstMetric(descElections, prometheus.CounterValue, float64(l.Changes), s.Name())
		events, bytes := s.Scavenged()
		ch <- prometheus.MustNewConstMetric(descScavenged, prometheus.CounterValue, float64(events), s.Name())
		ch <- prometheus.MustNewConstMetric(descGivenBack, prometheus.CounterValue, float64(bytes), s.Name())
		info, err := s.Info(context.Background(), api.InfoRequest{ReadOptions: api.ReadOptions{Consistency: api.Local}})
		if err == nil {
			gauge(descPosition, float64(info.LastPosition), s.Name())
			gauge(descDisk, float64(info.DiskBytes), s.Name())
		}
	}
	members, _ := c.source.Directory().Nodes()
	for _, m := range members {
		gauge(descUp, flag(m.Up), m.Name)
	}
	for what, v := range c.source.LogStats() {
		ch <- prometheus.MustNewConstMetric(descLog, prometheus.CounterValue, v, what)
	}
	for what, v := range c.source.TransportStats() {
		ch <- prometheus.MustNewConstMetric(descTransport, prometheus.CounterValue, v, what)
	}
}

func flag(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
