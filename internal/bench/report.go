// SPDX-License-Identifier: MIT

package main

import (
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"text/tabwriter"
)

// result is what one measurement of one side gave in one round.
type result struct {
	Round   int
	Side    string
	Figures []figure
}

// row is one figure of both sides.
type row struct {
	Name     string  `json:"name"`
	Unit     string  `json:"unit"`
	Upstream float64 `json:"upstream"` // median
	Wgnet    float64 `json:"wgnet"`    // median
	Ratio    float64 `json:"ratio"`    // median of wgnet to upstream in each round
	Low      float64 `json:"low"`      // the smallest of those
	High     float64 `json:"high"`     // the largest of those
}

// summarize takes medians, in the order in which the figures first came.
func summarize(results []result) []row {
	type key struct {
		name  string
		round int
	}
	values := map[string]map[key]float64{"upstream": {}, "wgnet": {}}
	var order []figure
	rounds := 0
	for _, r := range results {
		rounds = max(rounds, r.Round+1)
		for _, f := range r.Figures {
			values[r.Side][key{f.Name, r.Round}] = f.Value
			if !slices.ContainsFunc(order, func(o figure) bool { return o.Name == f.Name }) {
				order = append(order, f)
			}
		}
	}
	var rows []row
	for _, f := range order {
		var a, b, ratios []float64
		for round := range rounds {
			x, y := values["upstream"][key{f.Name, round}], values["wgnet"][key{f.Name, round}]
			a, b = append(a, x), append(b, y)
			if x > 0 {
				ratios = append(ratios, y/x)
			}
		}
		r := row{Name: f.Name, Unit: f.Unit, Upstream: median(a), Wgnet: median(b)}
		if len(ratios) > 0 {
			r.Ratio, r.Low, r.High = median(ratios), slices.Min(ratios), slices.Max(ratios)
		}
		rows = append(rows, r)
	}
	return rows
}

func median(values []float64) float64 {
	v := slices.Sorted(slices.Values(values))
	if len(v)%2 == 1 {
		return v[len(v)/2]
	}
	return (v[len(v)/2-1] + v[len(v)/2]) / 2
}

func printTable(w io.Writer, rows []row) error {
	t := tabwriter.NewWriter(w, 0, 0, 1, ' ', 0)
	fmt.Fprintln(t, "| \t| upstream \t| wgnet \t| ratio \t| spread \t|")
	fmt.Fprintln(t, "|---\t|---\t|---\t|---\t|---\t|")
	for _, r := range rows {
		name := r.Name
		if r.Unit != "" {
			name += ", " + r.Unit
		}
		fmt.Fprintf(t, "| %s \t| %s \t| %s \t| %.2f \t| %.2f to %.2f \t|\n", name, number(r.Upstream), number(r.Wgnet), r.Ratio, r.Low, r.High)
	}
	return t.Flush()
}

// number prints three significant digits, or all before the point.
func number(v float64) string {
	if v == 0 {
		return "0"
	}
	digits := max(0, 2-int(math.Floor(math.Log10(math.Abs(v)))))
	return strconv.FormatFloat(v, 'f', digits, 64)
}
