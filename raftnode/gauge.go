package raftnode

import (
	"sync"
	"time"

	"github.com/hashicorp/go-metrics"
)

// hashicorp/raft has a goroutine for each group that it leads, which sets a gauge every ten seconds: the age of the log's oldest entry. Nobody reads it here. The three hundred that a node leads
// of a thousand would wake a process that has nothing to do thirty times a second, and that was a third of what the node cost. The interval cannot be set; but whoever sets the gauge may be
// kept waiting. So all wait for the same moment, which comes every gaugeEvery, and are woken together.
//
// A goroutine of a leadership that has ended meanwhile ends then too.
const gaugeEvery = 5 * time.Minute

// gauges is where raft's metrics go: nowhere.
type gauges struct{ metrics.BlackholeSink }

// SetGaugeWithLabels implements metrics.MetricSink.
func (*gauges) SetGaugeWithLabels(key []string, _ float32, _ []metrics.Label) {
	if len(key) > 0 && key[len(key)-1] == "oldestLogAge" { // set by raft.emitLogStoreMetrics, which does nothing else
		now := time.Now()
		time.Sleep(now.Truncate(gaugeEvery).Add(gaugeEvery).Sub(now))
	}
}

var gaugesOnce sync.Once

// sinkMetrics makes gauges the process's sink of raft's metrics. hashicorp/go-metrics has one sink a process.
func sinkMetrics() {
	gaugesOnce.Do(func() { metrics.NewGlobal(&metrics.Config{FilterDefault: true}, new(gauges)) }) // it has no error
}
