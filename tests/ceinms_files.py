"""Small CEINMS files, and the example of the format, for the tests of several packages."""

from __future__ import annotations

from nms_gym.recording.ceinms import (
    load_ceinms_trial,
    read_ceinms_excitations,
    read_ceinms_subject,
    read_ceinms_trial,
)

EXAMPLE = "ceinms_format_example"


def load_example(folder):
    """(subject, excitations, trial) of the example."""
    subject = read_ceinms_subject(folder / "uncalibrated.xml")
    excitations = read_ceinms_excitations(folder / "excitationGenerator.xml")
    trial = load_ceinms_trial(read_ceinms_trial(folder / "calib" / "trial.xml"), subject, excitations)
    return subject, excitations, trial


SUBJECT = """<subject><mtuDefault><emDelay>0.02</emDelay><percentageChange>0.15</percentageChange><damping>0.1</damping>
</mtuDefault><mtuSet><mtu><name>a</name><c1>-0.5</c1><c2>-0.4</c2><shapeFactor>-1</shapeFactor>
<optimalFibreLength>0.1</optimalFibreLength><pennationAngle unit="deg">30</pennationAngle>
<tendonSlackLength>0.2</tendonSlackLength><maxIsometricForce>100</maxIsometricForce>
<strengthCoefficient>1.5</strengthCoefficient></mtu><mtu><name>b</name><emDelay>0.02</emDelay><c1>-0.5</c1><c2>-0.4</c2>
<shapeFactor>-1</shapeFactor><optimalFibreLength>0.1</optimalFibreLength><pennationAngle>0.1</pennationAngle>
<tendonSlackLength>0.2</tendonSlackLength><maxContractionVelocity>8</maxContractionVelocity>
<maxIsometricForce>100</maxIsometricForce><strengthCoefficient>1</strengthCoefficient></mtu></mtuSet>
<dofSet><dof><name>knee</name><mtuNameSet>a b</mtuNameSet></dof></dofSet></subject>"""
EXCITATIONS = """<excitationGenerator><inputSignals type="EMG">x y</inputSignals><mapping><excitation id="a">
<input weight="1">x</input></excitation><excitation id="b"><input weight="0.25">x</input><input weight="0">y</input>
</excitation></mapping></excitationGenerator>"""
TRIAL = """<inputData><muscleTendonLengthFile>in\\lmt.sto</muscleTendonLengthFile>
<excitationsFile>emg.sto</excitationsFile>
<momentArmsFiles><momentArmsFile dofName="knee">ma.sto</momentArmsFile></momentArmsFiles>
<startStopTime>0.5 1.5</startStopTime></inputData>"""
READERS = {SUBJECT: read_ceinms_subject, EXCITATIONS: read_ceinms_excitations, TRIAL: read_ceinms_trial}


def read(folder, text, old="", new=""):
    assert old in text
    file = folder / "file.xml"
    file.write_text(text.replace(old, new, 1) if old else text)
    return READERS[text](file)
