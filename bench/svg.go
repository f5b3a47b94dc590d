package main

import (
	"fmt"
	"html"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// style makes a picture that carries its own background, so that it reads well on any page, and follows the reader's preference for light or dark.
const style = `<style>
.card{fill:#f6f8fa}.text{fill:#1f2328}.soft{fill:#59636e}.line{stroke:#1f2328}.goal{stroke:#1a7f37}.goaltext{fill:#1a7f37}
.s0{fill:#0969da}.s1{fill:#bc6c1f}.s2{fill:#d9a066}.s3{fill:#8c959f}.s4{fill:#8250df}
@media (prefers-color-scheme:dark){.card{fill:#161b22}.text{fill:#e6edf3}.soft{fill:#9198a1}.line{stroke:#e6edf3}.goal{stroke:#3fb950}.goaltext{fill:#3fb950}
.s0{fill:#4493f8}.s1{fill:#c98a4b}.s2{fill:#8f6a3d}.s3{fill:#6e7681}.s4{fill:#a371f7}}
</style>
`

// pictureName is the file of a topic's picture.
func pictureName(topic string) string { return "bench-" + topic + ".svg" }

// draw makes a picture a topic.
func draw(dir string, r *report) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for _, t := range topics {
		if rows := r.of(t.id); len(rows) > 0 {
			if err := os.WriteFile(filepath.Join(dir, pictureName(t.id)), []byte(picture(t.title, r, rows)), 0o644); err != nil {
				return err
			}
		}
	}
	return nil
}

const (
	pictureWidth = 820
	margin       = 20
	barLeft      = 200 // the systems' names end before it
	barRight     = pictureWidth - 215
	barHeight    = 16
	barStep      = 21
	rowGap       = 44
)

// picture has a group of bars for each row, each group on a scale of its own: a bar a system as long as its median, with a line from min to max, and a mark where
// the goal is.
func picture(title string, r *report, rows []*result) string {
	var b strings.Builder
	y := 64
	for _, row := range rows {
		y = row.bars(&b, r.Systems, y) + rowGap
	}
	height := y - rowGap + margin
	head := fmt.Sprintf(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="system-ui,sans-serif" font-size="13" role="img" aria-label="%s">`+"\n%s"+
		`<rect class="card" width="%d" height="%d" rx="8"/><text class="text" x="%d" y="32" font-size="17" font-weight="bold">%s</text><text class="soft" x="%d" y="32" text-anchor="end">bar: median; line: min to max</text>`+"\n",
		pictureWidth, height, html.EscapeString(title), style, pictureWidth, height, margin, html.EscapeString(title), pictureWidth-margin)
	return head + b.String() + "</svg>\n"
}

// bars draws a row from y on and returns where it ends.
func (r *result) bars(b *strings.Builder, systems []string, y int) int {
	better := "more is better"
	if r.LowerBetter {
		better = "less is better"
	}
	fmt.Fprintf(b, `<text class="text" x="%d" y="%d" font-weight="bold">%s</text><text class="soft" x="%d" y="%d" text-anchor="end">%s; %s</text>`+"\n",
		margin, y, html.EscapeString(r.Name), pictureWidth-margin, y+14, html.EscapeString(r.Unit), better)
	y += 22
	goal, hasGoal := r.goalAt()
	top := goal
	for _, s := range systems {
		if v := r.Values[s]; len(v) > 0 {
			top = max(top, slices.Max(v))
		}
	}
	x := func(v float64) float64 { return barLeft + v/max(top, 1e-9)*(barRight-barLeft) }
	for i, s := range systems {
		v := r.Values[s]
		if len(v) == 0 && r.Failed[s] == "" {
			continue
		}
		base := y + barHeight - 4
		fmt.Fprintf(b, `<text class="text" x="%d" y="%d" text-anchor="end">%s</text>`, barLeft-8, base, html.EscapeString(s))
		if len(v) == 0 {
			fmt.Fprintf(b, `<text class="soft" x="%d" y="%d">failed</text>`+"\n", barLeft, base)
			y += barStep
			continue
		}
		end, mid := x(slices.Max(v)), y+barHeight/2
		fmt.Fprintf(b, `<rect class="s%d" x="%d" y="%d" width="%.1f" height="%d" rx="2"/>`, i%5, barLeft, y, max(x(median(v))-barLeft, 1), barHeight)
		if len(v) > 1 {
			fmt.Fprintf(b, `<line class="line" x1="%.1f" y1="%d" x2="%.1f" y2="%d" stroke-width="1.5"/>`, x(slices.Min(v)), mid, end, mid)
		}
		label := figure(median(v))
		if s == nameQuorate && hasGoal {
			fmt.Fprintf(b, `<line class="goal" x1="%.1f" y1="%d" x2="%.1f" y2="%d" stroke-width="3"/>`, x(goal), y-3, x(goal), y+barHeight+3)
			end = max(end, x(goal))
			_, met := r.judge()
			verdict := "missed"
			if met {
				verdict = "met"
			}
			fmt.Fprintf(b, `<text x="%.1f" y="%d"><tspan class="text">%s</tspan><tspan class="goaltext" dx="8">goal %s %s</tspan></text>`+"\n", end+7, base, label, figure(goal), verdict)
		} else {
			fmt.Fprintf(b, `<text class="text" x="%.1f" y="%d">%s</text>`+"\n", end+7, base, label)
		}
		y += barStep
	}
	return y
}

// goalAt is the hardest of the row's goals as a figure in its unit.
func (r *result) goalAt() (hardest float64, ok bool) {
	for _, g := range r.Goals {
		v := g.AtLeast
		if g.AtMost > 0 {
			v = g.AtMost
		}
		if g.Than != "" {
			other := r.Values[g.Than]
			if len(other) == 0 {
				continue
			}
			v *= median(other)
		}
		if !ok || (r.LowerBetter && v < hardest) || (!r.LowerBetter && v > hardest) {
			hardest, ok = v, true
		}
	}
	return hardest, ok
}
