// SPDX-License-Identifier: MIT

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"text/tabwriter"
	"time"

	"example.com/wgnet/internal/memnet"
	"example.com/wgnet/internal/tcptune"
	"golang.zx2c4.com/wireguard/conn"
)

// The hosts of a path, outside of the tunnel.
var (
	clientHost = netip.MustParseAddr("192.0.2.1")
	serverHost = netip.MustParseAddr("192.0.2.2")
)

// path is a link of the internet, the same both ways but for loss and disorder, which meet the data's way alone.
type path struct {
	rtt  time.Duration
	rate int64   // bit/s; the queue before it holds what is under way in one rtt. 0 is as fast as the machine is.
	loss float64 // of datagrams
	// shallow says that the queue holds a tenth of that.
	shallow bool
	// Reordered by three places, and duplicated.
	reorder, duplicate float64
}

const (
	mbit = 1_000_000
	gbit = 1_000 * mbit
)

// paths are the rows of the first table.
func paths() (list []path) {
	for _, rate := range []int64{100 * mbit, gbit} {
		for _, rtt := range []time.Duration{20, 80, 200} {
			for _, loss := range []float64{0, 0.001, 0.01} {
				list = append(list, path{rtt: rtt * time.Millisecond, rate: rate, loss: loss})
			}
		}
	}
	return append(list,
		path{rtt: 20 * time.Millisecond, rate: 100 * mbit, reorder: 0.01},
		path{rtt: 20 * time.Millisecond, rate: 100 * mbit, reorder: 0.01, loss: 0.01},
		path{loss: 0.1, reorder: 0.25, duplicate: 0.05})
}

// longPaths are the rows of the second table: does one stream fill 100 ms of 1 Gbit/s, and what happens to it there?
var longPaths = []path{
	{rtt: 100 * time.Millisecond, rate: gbit},
	{rtt: 100 * time.Millisecond, rate: gbit, loss: 1e-5},
	{rtt: 100 * time.Millisecond, rate: gbit, shallow: true},
}

func (p path) String() string {
	name := "no limit"
	if p.rate > 0 {
		name = fmt.Sprintf("%d Mbit/s", p.rate/mbit)
	}
	name += fmt.Sprintf(", %d ms, %.3g %%", p.rtt.Milliseconds(), p.loss*100)
	if p.shallow {
		name += ", short queue"
	}
	if p.reorder > 0 {
		name += fmt.Sprintf(", %.3g %% reordered", p.reorder*100)
	}
	if p.duplicate > 0 {
		name += fmt.Sprintf(", %.3g %% twice", p.duplicate*100)
	}
	return name
}

// links are the weather of the data's way and of the way back.
func (p path) links() (there, back memnet.Link) {
	back = memnet.Link{Latency: p.rtt / 2, Bandwidth: p.rate, Queue: max(int(float64(p.rate)/8*p.rtt.Seconds()), 64<<10)}
	if p.shallow {
		back.Queue = max(back.Queue/10, 64<<10)
	}
	there = back
	there.Loss, there.Reorder, there.Duplicate = p.loss, p.reorder, p.duplicate
	return there, back
}

// slowStart is how long a stream may take to find the path's rate: a window that doubles each round trip reaches
// 1 Gbit/s times 200 ms within 11 of them, and a second goes by with repairing what it has run over.
func (p path) slowStart() time.Duration { return time.Second + 15*p.rtt }

// contender is a column of the table.
type contender struct {
	name string
	tune *tcptune.Settings // nil for upstream, and for wgnet as it is
	open func(n *memnet.Network) (*pair, error)
}

// contenders are upstream, wgnet as it is, and wgnet with what it has not chosen.
func contenders(others ...tcptune.Settings) []contender {
	list := []contender{{"upstream", nil, upstreamOver}, {"wgnet", nil, wgnetOver}}
	for _, o := range others {
		var name []string
		if o.Congestion != "" {
			name = append(name, o.Congestion)
		}
		if o.Recovery != "" {
			name = append(name, o.Recovery)
		}
		if o.MaxSend != 0 {
			name = append(name, fmt.Sprintf("%d MiB sent", o.MaxSend>>20))
		}
		if o.MaxReceive != 0 {
			name = append(name, fmt.Sprintf("%d MiB received", o.MaxReceive>>20))
		}
		list = append(list, contender{strings.Join(name, " "), &o, wgnetOver})
	}
	return list
}

// opening guards tcptune.Override.
var opening sync.Mutex

func wgnetOver(n *memnet.Network) (*pair, error) {
	return wgnetPair(serverHost.String(), &[2]listenFunc{memListen(n, clientHost), memListen(n, serverHost)})
}

func upstreamOver(n *memnet.Network) (*pair, error) {
	return upstreamPair(serverHost.String(), [2]conn.Bind{
		&memBind{network: n, addr: clientHost}, &memBind{network: n, addr: serverHost},
	})
}

// goodput measures one stream over a path of its own, in Mbit/s.
func (c contender) goodput(p path, seed uint64, length time.Duration) (mbits float64, err error) {
	n := memnet.New(memnet.Options{Seed: seed})
	there, back := p.links()
	if err := errors.Join(n.SetLink(clientHost, serverHost, there), n.SetLink(serverHost, clientHost, back)); err != nil {
		return 0, err
	}
	opening.Lock()
	tcptune.Override.Store(c.tune)
	pair, err := c.open(n)
	tcptune.Override.Store(nil)
	opening.Unlock()
	if err != nil {
		return 0, err
	}
	defer func() {
		// Upstream's stack panics if a packet comes while it closes, so everything has to come to rest before.
		err = errors.Join(err, n.Close())
		time.Sleep(200 * time.Millisecond)
		err = errors.Join(err, pair.close())
	}()
	var received atomic.Int64
	stop, err := transfer(pair, 1, 0, &received)
	if err != nil {
		return 0, err
	}
	time.Sleep(p.slowStart())
	begin, before := time.Now(), received.Load()
	time.Sleep(length)
	mbits = float64(received.Load()-before) * 8 / time.Since(begin).Seconds() / mbit
	return mbits, stop()
}

// forecast is one row: what each contender made of a path.
type forecast struct {
	Path    string             `json:"path"`
	Goodput map[string]float64 `json:"mbit_per_s"` // medians
	Ratio   float64            `json:"ratio"`      // wgnet to upstream, median of the rounds'
}

// light says that streams on the path cannot be so fast that the machine's speed would matter.
func (p path) light() bool { return p.rate > 0 && (p.rate <= 100*mbit || p.loss >= 0.001) }

// forecasts measures every path with every contender: on a light path at the same time, each on a link of its own,
// elsewhere one after the other.
func forecasts(all []path, who []contender, rounds int, length time.Duration, only string) ([]forecast, error) {
	var table []forecast
	values := map[string]map[string][]float64{} // by path and contender, a value for each round
	for round := range rounds {
		for _, p := range all {
			if !strings.Contains(p.String(), only) {
				continue
			}
			fmt.Fprintf(os.Stderr, "round %d of %d: %s: ", round+1, rounds, p)
			got, err := p.round(who, uint64(round), length)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", p, err)
			}
			if values[p.String()] == nil {
				values[p.String()] = map[string][]float64{}
				table = append(table, forecast{Path: p.String(), Goodput: map[string]float64{}})
			}
			fmt.Fprintf(os.Stderr, "%.3g\n", got)
			for i, c := range who {
				values[p.String()][c.name] = append(values[p.String()][c.name], got[i])
			}
		}
	}
	for i := range table {
		v := values[table[i].Path]
		var ratios []float64
		for round, ours := range v["wgnet"] {
			ratios = append(ratios, ours/v["upstream"][round])
		}
		table[i].Ratio = median(ratios)
		for _, c := range who {
			table[i].Goodput[c.name] = median(v[c.name])
		}
	}
	return table, nil
}

// round measures all contenders on one path.
func (p path) round(who []contender, seed uint64, length time.Duration) ([]float64, error) {
	got, errs := make([]float64, len(who)), make([]error, len(who))
	var wg sync.WaitGroup // ends with the measurements
	for i, c := range who {
		one := func() { got[i], errs[i] = c.goodput(p, seed, length) }
		if p.light() {
			wg.Go(one)
		} else {
			one()
		}
	}
	wg.Wait()
	return got, errors.Join(errs...)
}

func printForecasts(w io.Writer, who []contender, table []forecast) error {
	t := tabwriter.NewWriter(w, 0, 0, 1, ' ', 0)
	fmt.Fprint(t, "| rate, round trip, loss ")
	for _, c := range who {
		fmt.Fprintf(t, "\t| %s ", c.name)
	}
	fmt.Fprintln(t, "\t| ratio \t|")
	fmt.Fprintln(t, strings.Repeat("|---\t", len(who)+2)+"|")
	for _, row := range table {
		fmt.Fprintf(t, "| %s ", row.Path)
		for _, c := range who {
			fmt.Fprintf(t, "\t| %s ", number(row.Goodput[c.name]))
		}
		fmt.Fprintf(t, "\t| %.2f \t|\n", row.Ratio)
	}
	fmt.Fprintln(t)
	return t.Flush()
}

// weatherTables is the command with -weather.
func weatherTables(rounds int, length time.Duration, only string, asJSON bool) error {
	tables := []struct {
		name  string
		paths []path
		who   []contender
	}{
		{"settings", paths(), contenders(
			tcptune.Settings{Congestion: "reno", Recovery: "sack"},
			tcptune.Settings{Congestion: "cubic", Recovery: "rack"},
			tcptune.Settings{Congestion: "cubic", Recovery: "sack"},
		)},
		{"buffers", longPaths, contenders(
			tcptune.Settings{MaxSend: 4 << 20},
			tcptune.Settings{MaxSend: 8 << 20},
			tcptune.Settings{MaxSend: 16 << 20},
		)},
	}
	results := map[string][]forecast{}
	for _, t := range tables {
		rows, err := forecasts(t.paths, t.who, rounds, length, only)
		if err != nil {
			return err
		}
		results[t.name] = rows
		if asJSON || len(rows) == 0 {
			continue
		}
		if err := printForecasts(os.Stdout, t.who, rows); err != nil {
			return err
		}
	}
	if !asJSON {
		return nil
	}
	enc := json.NewEncoder(os.Stdout)
	enc.SetIndent("", "  ")
	return enc.Encode(results)
}
