"""What else on the host kills or leaks the networks' traffic, why, and the command that mends it.

    facts      what was found on the host; plain data
    gather     finds it: the only module here that looks at anything
    ruleset    tables, chains and rules of any firewall, in libnftables' words
    nftables   a listing of nft's as a ruleset
    iptables   the output of iptables-save as a ruleset
    walk       a packet through one base chain: which rule decides
    traffic    the packets that a host file wants to pass, and those that it forbids
    passage    a packet's way through all base chains of all tables
    opening    the narrowest rule that lets a packet pass, as nft or iptables write it
    docker     what Docker left behind, by layout
    owners     whose table is whose
    asking     the packet that somebody asks about, completed
    case       a host file, the facts and the traffic together
    finding    what a diagnosis is made of, and what comes of it
    routing    where the kernel sends a packet, by its rules and tables of routes
    routes     conditions of those
    switches   conditions of the kernel's state
    encounters conditions of other people's rules
    remedies   the commands that mend something
    diagnoses  the table of everything that can be wrong: condition, sentence, remedy
    run        facts and host file to findings
    show       findings as lines or data

Facts go in and findings come out; all but `gather` is pure.
"""
