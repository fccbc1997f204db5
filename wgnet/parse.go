// SPDX-License-Identifier: MIT

package wgnet

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
)

const (
	// maxFileSize lets a file name the most peers that a device takes, with all that belongs to them.
	maxFileSize = 32 << 20

	// maxLineSize bounds the memory that one line can ask for. It holds some 20,000 AllowedIPs; there can be more lines.
	maxLineSize = 1 << 20

	// maxWarnings bounds what a file of rubbish comments can pile up.
	maxWarnings = 100
)

const (
	sectionInterface = "Interface"
	sectionPeer      = "Peer"
)

// LoadConfig reads and parses the file at path as [ParseConfig] does. It warns if the file, which holds a private key,
// can be read by more than its owner (not on Windows, whose permissions are of another kind). A file that cannot be
// read gives the error of package os; what is wrong inside is a [*ParseError].
func LoadConfig(path string) (*Config, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("wgnet: config: %w", err)
	}
	defer f.Close() // only read from: nothing can be lost
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("wgnet: config: %w", err)
	}
	c, err := ParseConfig(f)
	if err != nil {
		if e, ok := errors.AsType[*ParseError](err); ok {
			e.File = path
		}
		return nil, err
	}
	if mode := info.Mode(); runtime.GOOS != "windows" && mode.IsRegular() && mode.Perm()&0o044 != 0 {
		c.warnings = append(c.warnings, Warning{Reason: fmt.Sprintf(
			"%s holds a private key, and its mode %#o lets others read it; `chmod 600` it", path, mode.Perm())})
	}
	return c, nil
}

// ParseConfig reads a config file as wg(8) and wg-quick(8) describe it. Sections and keys may be in any letter case.
// Address, DNS and AllowedIPs are lists, separated by commas or spaces, and add up when they are repeated; any other key
// may come once in its section. Keys that are for wg-quick alone (PreUp, PostUp, PreDown, PostDown, Table, SaveConfig,
// FwMark) have no effect: see [Config.Warnings]. A comment "# Name = db" in a peer's section names the peer. A name that
// cannot be used is a warning, since it is only a comment.
//
// The Config that is returned is valid. An error in the text is a [*ParseError] with its line; it never has a key in
// it, nor the value of a key that is not known. A file may have 32 MiB, a line 1 MiB.
func ParseConfig(r io.Reader) (*Config, error) {
	p := parser{cfg: new(Config), own: lines{keys: make(map[string][]int)}, ignored: make(map[string]bool)}
	if err := p.read(r); err != nil {
		return nil, err
	}
	if p.own.header == 0 {
		p.lineno, p.section = 0, ""
		return nil, p.fail("", errors.New("there is no [Interface] section"))
	}
	p.checkNames()
	p.checkPins()
	if err := p.cfg.validate(p.line); err != nil {
		return nil, err
	}
	for i := range p.cfg.Peers {
		// An empty list is somebody's will. No list may be somebody's slip.
		if peer := &p.cfg.Peers[i]; p.peers[i].keys["AllowedIPs"] == nil {
			p.lineno, p.section = p.peers[i].header, sectionPeer
			p.warn("AllowedIPs", fmt.Sprintf("peer %s has none, so it may send and receive nothing", peer.label()))
		}
	}
	return p.cfg, nil
}

// lines says where the parts of a section stand.
type lines struct {
	header int
	keys   map[string][]int // for each key, the line of each of its values
}

// A parser is at one line of a file.
type parser struct {
	cfg     *Config
	own     lines
	peers   []lines
	ignored map[string]bool // the ignored keys that were reported

	lineno   int
	section  string // "", sectionInterface or sectionPeer
	nameLine int    // the last line that was a Name comment and nothing else
}

func (p *parser) read(r io.Reader) error {
	limited := &io.LimitedReader{R: r, N: maxFileSize + 1}
	scanner := bufio.NewScanner(limited)
	scanner.Buffer(nil, maxLineSize)
	for scanner.Scan() {
		p.lineno++
		text := scanner.Bytes()
		if p.lineno == 1 {
			text = bytes.TrimPrefix(text, []byte("\ufeff"))
			if bytes.HasPrefix(text, []byte{0xff, 0xfe}) || bytes.HasPrefix(text, []byte{0xfe, 0xff}) {
				return p.fail("", errors.New("the file is UTF-16; save it as UTF-8"))
			}
		}
		if err := p.readLine(string(text)); err != nil {
			return err
		}
	}
	if limited.N == 0 {
		p.section = ""
		return p.fail("", fmt.Errorf("the file is larger than %d MiB", maxFileSize>>20))
	}
	if err := scanner.Err(); errors.Is(err, bufio.ErrTooLong) {
		p.lineno++
		return p.fail("", fmt.Errorf("the line is longer than %d MiB", maxLineSize>>20))
	} else if err != nil {
		return fmt.Errorf("wgnet: config: %w", err)
	}
	return nil
}

func (p *parser) readLine(line string) error {
	for i := range len(line) {
		if c := line[i]; c < ' ' && c != '\t' || c == 0x7f {
			return p.fail("", fmt.Errorf("control character %#02x in column %d; is this a text file, in UTF-8?", c, i+1))
		}
	}
	text, comment, _ := strings.Cut(line, "#")
	text = strings.TrimSpace(text)
	switch {
	case text == "":
	case text[0] == '[':
		if err := p.beginSection(text); err != nil {
			return err
		}
	default:
		if err := p.readKey(text); err != nil {
			return err
		}
	}
	p.readComment(comment, text == "")
	return nil
}

func (p *parser) beginSection(text string) error {
	name, ok := strings.CutSuffix(text[1:], "]")
	name = strings.TrimSpace(name)
	switch {
	case ok && strings.EqualFold(name, sectionInterface):
		if p.own.header != 0 {
			return p.fail("", fmt.Errorf("a second [Interface]; the first is in line %d, and there can be one only", p.own.header))
		}
		p.section, p.own.header = sectionInterface, p.lineno
	case ok && strings.EqualFold(name, sectionPeer):
		p.dropAmbiguousName()
		if len(p.cfg.Peers) == maxPeers {
			return p.fail("", fmt.Errorf("more than %d peers", maxPeers))
		}
		p.section = sectionPeer
		p.cfg.Peers = append(p.cfg.Peers, PeerConfig{})
		p.peers = append(p.peers, lines{header: p.lineno, keys: make(map[string][]int)})
	default:
		p.section = ""
		return p.fail("", errors.New("unknown section; want [Interface] or [Peer]"))
	}
	return nil
}

func (p *parser) readKey(text string) error {
	key, value, ok := strings.Cut(text, "=")
	if !ok {
		return p.fail("", errors.New("want \"Key = value\", a section such as [Peer], or a comment that begins with #"))
	}
	key, value = strings.TrimSpace(key), strings.TrimSpace(value)
	rule, known := ruleOf(key)
	switch {
	case p.section == "":
		return p.fail("", errors.New("there must be an [Interface] or [Peer] line above this one"))
	case !known:
		return p.fail(unknownName(key, value), fmt.Errorf("unknown key; [%s] may have %s", p.section, keysOf(p.section)))
	case rule.section != p.section:
		return p.fail(rule.name, fmt.Errorf("the key belongs to a section [%s]", rule.section))
	case rule.ignored != "":
		if !p.ignored[rule.name] {
			p.ignored[rule.name] = true
			p.warn(rule.name, rule.ignored)
		}
		return nil
	}
	return p.set(rule, value)
}

func (p *parser) set(rule keyRule, value string) error {
	at := p.here()
	before, again := at.keys[rule.name]
	if rule.list {
		// wg-quick separates by spaces too. An empty list is allowed: that peer may send and receive nothing.
		if !again {
			at.keys[rule.name] = []int{}
		}
		for entry := range strings.FieldsFuncSeq(value, isSeparator) {
			if err := p.setEntry(rule.name, entry); err != nil {
				return p.fail(rule.name, err)
			}
			at.keys[rule.name] = append(at.keys[rule.name], p.lineno)
		}
		return nil
	}
	if again {
		return p.fail(rule.name, fmt.Errorf("it is there twice; the first is in line %d", before[0]))
	}
	if value == "" {
		return p.fail(rule.name, errors.New("the value is missing"))
	}
	at.keys[rule.name] = []int{p.lineno}
	if err := p.setValue(rule.name, value); err != nil {
		return p.fail(rule.name, err)
	}
	return nil
}

func isSeparator(r rune) bool { return r == ',' || r == ' ' || r == '\t' || r == '\u00a0' }

// readComment takes up "Name = db" and "PinEndpoint = true". alone says that there is nothing else in the line.
func (p *parser) readComment(comment string, alone bool) {
	key, value, ok := strings.Cut(comment, "=")
	value, _, _ = strings.Cut(value, "#")
	value = strings.TrimSpace(value)
	key = strings.Trim(key, "# \t")
	if ok && strings.EqualFold(key, "PinEndpoint") && p.section == sectionPeer {
		p.readPin(value)
		return
	}
	if !ok || !strings.EqualFold(key, "Name") {
		return
	}
	if alone {
		p.nameLine = p.lineno
	}
	if p.section != sectionPeer || value == "" {
		return
	}
	at := p.here()
	if before := at.keys["Name"]; len(before) > 0 {
		p.warn("Name", fmt.Sprintf("ignored: the peer has its name from line %d", before[0]))
		return
	}
	if err := checkName(value); err != nil {
		p.warn("Name", fmt.Sprintf("%s ignored: %v", show(value), err))
		return
	}
	at.keys["Name"] = []int{p.lineno}
	p.peer().Name = value
}

func (p *parser) readPin(value string) {
	if !strings.EqualFold(value, "true") {
		p.warn("PinEndpoint", show(value)+" ignored: want true, or no such comment")
		return
	}
	p.here().keys["PinEndpoint"] = []int{p.lineno}
	p.peer().PinEndpoint = true
}

// checkPins unpins those peers that have no endpoint to be pinned to: a comment is no reason to refuse a file.
func (p *parser) checkPins() {
	for i := range p.cfg.Peers {
		if peer := &p.cfg.Peers[i]; peer.PinEndpoint && peer.Endpoint == "" {
			p.lineno, p.section = p.peers[i].keys["PinEndpoint"][0], sectionPeer
			p.warn("PinEndpoint", "ignored: the peer has no Endpoint to be kept at")
			peer.PinEndpoint = false
		}
	}
}

// dropAmbiguousName is called at a [Peer] line. Somebody who writes the name right above it means the peer below, and
// by the rule it would name the one above: to dial the wrong host is worse than not to know the name.
func (p *parser) dropAmbiguousName() {
	if p.nameLine == 0 || p.nameLine != p.lineno-1 {
		return
	}
	p.warn("Name", "the Name comment right above this line is ignored; put it below the [Peer] line of the peer that it names")
	if p.section != sectionPeer {
		return
	}
	if at := p.here(); len(at.keys["Name"]) > 0 && at.keys["Name"][0] == p.nameLine {
		delete(at.keys, "Name")
		p.peer().Name = ""
	}
}

// checkNames takes a name away from every peer but the first that has it.
func (p *parser) checkNames() {
	seen := make(map[string]int)
	for i := range p.cfg.Peers {
		peer := &p.cfg.Peers[i]
		folded := strings.ToLower(peer.Name)
		first, again := seen[folded]
		switch {
		case folded == "":
		case again:
			p.lineno, p.section = p.peers[i].keys["Name"][0], sectionPeer
			p.warn("Name", fmt.Sprintf("%s ignored: it is the name of the peer in line %d", peer.Name, first))
			peer.Name = ""
		default:
			seen[folded] = p.peers[i].header
		}
	}
}

// peer returns the peer of the section, or nil outside of one.
func (p *parser) peer() *PeerConfig {
	if p.section != sectionPeer {
		return nil
	}
	return &p.cfg.Peers[len(p.cfg.Peers)-1]
}

// here returns the lines of the section.
func (p *parser) here() *lines {
	if p.section == sectionPeer {
		return &p.peers[len(p.peers)-1]
	}
	return &p.own
}

// line is the locate of the file.
func (p *parser) line(peer int, key string, i int) int {
	at := &p.own
	if peer != ownSection {
		at = &p.peers[peer]
	}
	if values := at.keys[key]; i < len(values) {
		return values[i]
	}
	return at.header
}

func (p *parser) fail(key string, err error) error {
	return &ParseError{Line: p.lineno, Section: p.section, Key: key, Err: err}
}

func (p *parser) warn(key, reason string) {
	w := &p.cfg.warnings
	switch {
	case len(*w) < maxWarnings:
		*w = append(*w, Warning{Line: p.lineno, Section: p.section, Key: key, Reason: reason})
	case len(*w) == maxWarnings:
		*w = append(*w, Warning{Line: p.lineno, Reason: "further warnings are left out"})
	}
}

// unknownName returns the name of an unknown key for an error, or "" if it may be something else. A line that has only
// a key in base64 looks like a name with an empty value, because of the = at its end; half of a key, too.
func unknownName(key, value string) string {
	const longest = 20
	if strings.Trim(value, "=") == "" || key == "" || len(key) > longest {
		return ""
	}
	for i := range len(key) {
		if !isAlnum(key[i]) && key[i] != '_' && key[i] != '-' {
			return ""
		}
	}
	return key
}
